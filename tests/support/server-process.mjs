// `duet server` in a process of its own, which a test may kill.

import { serverCommand } from '../../dist/cli/server.js';

await serverCommand().parseAsync(process.argv.slice(2), { from: 'user' });
