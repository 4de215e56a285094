// Writes the API documentation from the docstrings into docs/api (not committed); a gap in them is an error.
//
//   npm run docs
//   node scripts/docs.mjs --check     looks for gaps and writes nothing; a part of npm run lint
import { runModule } from './common.mjs';
import { setup } from './setup.mjs';

setup();
const check = process.argv.includes('--check');
runModule('typedoc/bin/typedoc', check ? ['--emit', 'none', '--logLevel', 'Warn'] : []);
