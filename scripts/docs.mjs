// Writes the API documentation from the docstrings into docs/api (not committed).
//
//   npm run docs
import { runModule } from './common.mjs';
import { setup } from './setup.mjs';

setup();
const options = ['--entryPoints', 'src/index.ts', '--tsconfig', 'tsconfig.json', '--out', 'docs/api'];
const quiet = ['--name', 'duet-train', '--excludePrivate', '--excludeInternal', '--disableGit'];
runModule('typedoc/bin/typedoc', [
  ...options,
  ...quiet,
  '--sourceLinkTemplate',
  '{path}',
  '--readme',
  'README.md',
]);
