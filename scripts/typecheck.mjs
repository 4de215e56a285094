// Checks the types of everything: the sources, the tests and examples, the benchmarks.
//
//   npm run typecheck
//
// The sources are compiled first (only what changed), because examples and benchmarks import the
// package by its name and so see the declarations in dist.
import { existsSync, readdirSync } from 'node:fs';
import path from 'node:path';
import { build, buildTypeScript } from './build.mjs';
import { root } from './common.mjs';

build(['ts']);
buildTypeScript('tsconfig.tests.json');
const bench = path.join(root, 'bench');
if (existsSync(bench) && readdirSync(bench).some((name) => name.endsWith('.ts'))) build(['bench']);
