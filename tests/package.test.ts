// The package as users get it: packed, installed with scripts blocked into an empty folder, imported
// from ESM, trained for ten steps. The addon and its libraries must come out of the tarball.
import { type ExecFileSyncOptionsWithStringEncoding, execFileSync, spawnSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';

const root = fileURLToPath(new URL('..', import.meta.url));
const folder = mkdtempSync(join(tmpdir(), 'duet-package-'));
const app = join(folder, 'app');

const reason = skipReason();
if (reason) console.log(`The packed package is not tested: ${reason}`);

function skipReason(): string | undefined {
  if (process.env.DUET_SANITIZED) return 'the sanitizer run has its own addon';
  if (process.platform !== 'linux') return `prebuilt binaries are made on Linux, this is ${process.platform}`;
  return undefined;
}

/** The environment without what this test run, npm or a developer has set for the checkout. */
function plainEnvironment(): NodeJS.ProcessEnv {
  const kept = Object.entries(process.env).filter(
    ([name]) => !/^(npm_|DUET_|VITEST|NODE_OPTIONS$|NODE_ENV$|LD_)/i.test(name),
  );
  return Object.fromEntries(kept);
}

const options: ExecFileSyncOptionsWithStringEncoding = {
  encoding: 'utf8',
  stdio: ['ignore', 'pipe', 'pipe'],
  env: plainEnvironment(),
};

function npm(cwd: string, ...args: string[]): string {
  return execFileSync('npm', args, { ...options, cwd, maxBuffer: 2 ** 26 });
}

function node(script: string): unknown {
  const result = spawnSync(process.execPath, ['--input-type=module', '-e', script], { ...options, cwd: app });
  if (result.status !== 0) throw new Error(`exit ${result.status ?? result.signal}: ${result.stderr}`);
  return JSON.parse(result.stdout);
}

function emptyProject(path: string): void {
  mkdirSync(path);
  writeFileSync(join(path, 'package.json'), '{ "private": true, "type": "module" }');
}

/** What npm says when the registry cannot be reached, or when it is offline and has a package not in its cache. */
const OFFLINE =
  /^npm (?:error|ERR!) code (?:ENOTFOUND|EAI_AGAIN|ECONN\w+|E\w*TIMEDOUT|ENETUNREACH|EHOSTUNREACH|ERR_SOCKET_TIMEOUT|ENOTCACHED)$/m;

/** Installs without scripts. @returns false when there is no network; any other failure is thrown with npm's words */
function installed(cwd: string, ...args: string[]): boolean {
  const quick = ['--prefer-offline', '--fetch-retries=0', '--no-audit', '--no-fund'];
  const result = spawnSync('npm', ['install', '--ignore-scripts', ...quick, ...args], { ...options, cwd });
  if (result.status === 0) return true;
  if (OFFLINE.test(result.stderr)) return false;
  throw new Error(`npm install failed with exit ${result.status ?? result.signal}: ${result.stderr}`);
}

/** Without a network and with an empty npm cache: the tarball's content, and the dependencies of the checkout. */
function installByHand(tarball: string): void {
  const target = join(app, 'node_modules/duet-train');
  mkdirSync(target, { recursive: true });
  execFileSync('tar', ['-xzf', tarball, '-C', target, '--strip-components=1']);
  for (const path of npm(root, 'ls', '--omit=dev', '--all', '--parseable').split('\n')) {
    const place = relative(root, path.trim());
    if (place.startsWith('node_modules')) cpSync(join(root, place), join(app, place), { recursive: true });
  }
}

describe.skipIf(reason)('installing', () => {
  const project = join(folder, 'project');
  beforeAll(() => emptyProject(project));
  const nowhere = [
    '--registry=http://127.0.0.1:1',
    '--cache',
    join(folder, 'empty-cache'),
    '@duet-train/nothing',
  ];

  test.each([[[]], [['--offline']]])('without a network is told apart %j', (offline) => {
    expect(installed(project, ...nowhere, ...offline)).toBe(false);
  });

  test('anything else fails with what npm says', () => {
    expect(() => installed(project, join(folder, 'no-such-package.tgz'))).toThrow(/no-such-package\.tgz/);
  });
});

describe.skipIf(reason)('the packed package', () => {
  let files: string[] = [];

  beforeAll(() => {
    npm(root, 'pack', '--pack-destination', folder);
    const tarball = join(folder, readdirSync(folder).find((name) => name.endsWith('.tgz')) ?? '');
    files = execFileSync('tar', ['-tzf', tarball], { encoding: 'utf8' }).trim().split('\n');
    emptyProject(app);
    if (installed(app, tarball)) return;
    console.log('npm install found no network and nothing in its cache; unpacking instead');
    rmSync(join(app, 'node_modules'), { recursive: true, force: true });
    installByHand(tarball);
  }, 400_000);

  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  test('holds the compiled code, the prebuilt addon and its libraries, and nothing to compile', () => {
    const prebuilds = `package/prebuilds/${process.platform}-${process.arch}`;
    for (const name of ['package/dist/index.js', 'package/dist/index.d.ts', 'package/dist/cli/main.js']) {
      expect(files).toContain(name);
    }
    expect(files.filter((name) => /duet-train\.(glibc|musl)\.node$/.test(name))).toHaveLength(1);
    expect(files.some((name) => name.startsWith(`${prebuilds}/libdnnl.so.`))).toBe(true);
    expect(files.some((name) => /\/lib(gomp|omp|iomp5)\.so/.test(name))).toBe(true);
    for (const name of [
      'package/docs/federated.md',
      'package/docs/images/quickstart.gif',
      'package/examples/01-federate.mjs',
    ])
      expect(files).toContain(name); // where the links of the README lead
    expect(files.filter((name) => /binding\.gyp|CMakeLists|\.cpp$|\.tsbuildinfo|\/src\//.test(name))).toEqual(
      [],
    );
  });

  test('needs no install script', () => {
    const manifest = node(`
      import { readFileSync } from 'node:fs';
      console.log(readFileSync('node_modules/duet-train/package.json', 'utf8'));
    `) as { scripts?: Record<string, string> };
    for (const name of ['preinstall', 'install', 'postinstall']) {
      expect(manifest.scripts ?? {}).not.toHaveProperty(name);
    }
    expect(existsSync(join(app, 'node_modules/duet-train/build'))).toBe(false);
  });

  test('does not bring its optional peer', () => {
    expect(existsSync(join(app, 'node_modules/onnxruntime-node'))).toBe(false);
  });

  test('trains ten steps after import, with its own libraries', () => {
    const result = node(`
      import { Vilt, viltPreset } from 'duet-train';
      const config = viltPreset('tiny', { vocab_size: 50, hidden_dropout_prob: 0 });
      const model = Vilt.create(config, { answers: 3, adapters: { reduction: 8 }, seed: 1, threads: 1 });
      await model.startTraining({
        method: 'feddat',
        task: 'vqa',
        optimizer: { learningRate: 1e-2, betas: [0.9, 0.98], epsilon: 1e-8, weightDecay: 0.01 },
        schedule: { kind: 'constant', warmupSteps: 0, maxSteps: 20 },
      });
      const [batch, textLength, edge] = [2, 4, 64];
      const losses = [];
      for (let step = 0; step < 10; step++) {
        const { loss } = await model.step({
          batch, textLength, height: edge, width: edge,
          inputIds: Int32Array.from([1, 5, 6, 2, 1, 7, 8, 2]),
          tokenTypeIds: new Int32Array(batch * textLength),
          attentionMask: new Uint8Array(batch * textLength).fill(1),
          pixelValues: Float32Array.from({ length: batch * 3 * edge * edge }, (_, i) => Math.sin(i)),
          pixelMask: new Uint8Array(batch * edge * edge).fill(1),
          targets: Float32Array.from([1, 0, 0, 0, 1, 0]),
        });
        losses.push(loss);
      }
      model.dispose();
      const loaded = process.report.getReport().sharedObjects;
      console.log(JSON.stringify({ losses, loaded }));
    `) as { losses: number[]; loaded: string[] };
    expect(result.losses).toHaveLength(10);
    expect(result.losses.every(Number.isFinite)).toBe(true);
    expect(result.losses[9]).toBeLessThan(result.losses[0]!);
    const ours = result.loaded.filter((file) => /duet-train\.\w+\.node$|lib(dnnl|gomp)\.so/.test(file));
    expect(ours).toHaveLength(3);
    for (const file of ours) expect(file).toContain(join(app, 'node_modules/duet-train/prebuilds'));
    // Without a picture no library of pictures.
    expect(result.loaded.filter((file) => /vips/.test(file))).toEqual([]);
  });

  test('has the command duet', (context) => {
    const command = join(app, 'node_modules/.bin/duet');
    if (!existsSync(command)) {
      console.log('skipped: the command duet, the package was unpacked by hand and npm made no links');
      context.skip();
    }
    const version = execFileSync(command, ['--version'], { ...options, cwd: app });
    expect(version.trim()).toMatch(/^\d+\.\d+\.\d+/);
  });
});
