// The command line as users meet it: help, tables, exit codes, messages.

import { copyFile, cp, mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { beforeAll, describe, expect, test, vi } from 'vitest';
import { againCommand, resumeCommand } from '../src/cli/stopping.js';
import { native } from '../src/native.js';
import { drawSmallSet, duet, metricsOf, quickPretraining, quickRun, succeed } from './cli-support.js';
import { hasShared, sharedPath } from './data-support.js';
import { temporaryFolder } from './federation-support.js';

let folder: string;
let data: string;
let model: string;

beforeAll(async () => {
  folder = await temporaryFolder();
  data = await drawSmallSet(folder);
  model = join(folder, 'model');
  await succeed('pretrain', data, ...quickPretraining, '--epochs', '2', '--out', model);
});

describe('help', () => {
  test.each([
    'quickstart',
    'pretrain',
    'federate',
    'golden',
    'info',
    'data synthetic',
    'stickers train',
    'stickers generate',
    'stickers evaluate',
  ])('duet %s --help', async (command) => {
    const { stdout } = await succeed(...command.split(' '), '--help');
    expect(stdout).toContain(`Usage: duet ${command}`);
  });

  test('shows defaults and units', async () => {
    const { stdout } = await succeed('federate', '--help');
    expect(stdout.replace(/\s+/g, ' ')).toMatch(/--batch-size <samples> samples in a batch \(default: 32\)/);
    expect(stdout.replace(/\s+/g, ' ')).toMatch(/--strategy <names> one or several .* \(default: feddat\)/);
  });
});

describe('wrong usage ends with 2 and names what was expected', () => {
  const cases: [string, string[], RegExp][] = [
    ['no command', ['fly'], /unknown command 'fly'/],
    ['no data', ['federate', '--model', 'x'], /missing required argument 'data'/],
    ['no model', ['federate', 'x'], /required option '--model <dir>' not specified/],
    [
      'a number',
      ['federate', 'x', '--model', 'y', '--rounds', 'many'],
      /Expected an integer of at least 1 but received many/,
    ],
    [
      'a rate',
      ['federate', 'x', '--model', 'y', '--lr', '-1'],
      /Expected a number above 0 and of at most 1 but received -1/,
    ],
    [
      'a rate in hexadecimals',
      ['federate', 'x', '--model', 'y', '--lr', '0x1'],
      /at most 1 but received 0x1/,
    ],
    ['a huge rate', ['pretrain', 'x', '--out', 'y', '--lr', '1e30'], /at most 1 but received 1e30/],
    [
      'a strategy',
      ['federate', 'x', '--model', 'y', '--strategy', 'fedprox'],
      /Expected names among feddat, .* but received fedprox/,
    ],
    [
      'a device',
      ['golden', 'x', '--device', 'tpu'],
      /Expected cpu, cuda, cuda:<index> or auto but received tpu/,
    ],
    ['an option', ['info', '--loud'], /unknown option '--loud'/],
  ];
  test.each(cases)('%s', async (_, args, message) => {
    const { status, stderr, stdout } = await duet(...args);
    expect(stderr).toMatch(message);
    expect([status, stdout]).toEqual([2, '']);
  });
});

describe('errors end with 1 and one line', () => {
  const bad: [string, () => string[], RegExp][] = [
    [
      'data that is not there',
      () => ['federate', join(folder, 'no'), '--model', model],
      /Cannot read clients .*no such file/,
    ],
    [
      'a model that is not there',
      () => ['federate', data, '--model', join(folder, 'no')],
      /a model folder holds config.json/,
    ],
    [
      'an unknown client',
      () => ['federate', data, '--model', model, '--clients', 'neon'],
      /among poster, outline .* but received neon/,
    ],
    [
      'an unknown view',
      () => ['federate', data, '--model', model, '--view', 'taste'],
      /clients_taste_train.json/,
    ],
    [
      'an unknown style',
      () => ['pretrain', data, '--style', 'neon', '--out', join(folder, 'x')],
      /but received neon/,
    ],
    ['reference numbers that are not there', () => ['golden', data], /Expected folders such as vilt_tiny/],
    ['another set in the folder', () => ['data', 'synthetic', data, '--seed', '2'], /other settings/],
  ];
  test.each(bad)('%s', async (_, args, message) => {
    const { status, stderr } = await duet(...args());
    expect(stderr).toMatch(message);
    expect(stderr).toMatch(/^duet: [^\n]*\n$/);
    expect(status).toBe(1);
  });
});

describe('duet federate', () => {
  test('compares strategies and seeds, prints a table, writes run folders and a summary', async () => {
    const run = join(folder, 'compared');
    const args = [
      '--strategy',
      'centralised,local,fedavg,feddat',
      '--seed',
      '1,2',
      '--rounds',
      '2',
      '--by-type',
      '--run',
      run,
    ];
    const { stdout, stderr } = await succeed('federate', data, '--model', model, ...quickRun, ...args);
    for (const name of ['centralised', 'local', 'fedavg', 'feddat']) {
      expect(stderr).toMatch(new RegExp(`${name} seed 2 {2}round 2/2 {2}loss \\d`));
      expect((await metricsOf(join(run, `${name}-seed1`))).length).toBe(2);
    }
    expect(stdout).toMatch(/│ strategy +│ evaluated +│ +poster │ +outline │ +mean │/);
    expect(stdout).toMatch(/│ feddat +│ gated \(own \+ shared\) +│ +\d+\.\d ± \d+\.\d │/);
    expect(stdout).toMatch(/mean ± standard deviation over seeds 1, 2/);
    expect(stdout).toMatch(/│ question type +│/);
    const summary = JSON.parse(await readFile(join(run, 'summary.json'), 'utf8'));
    expect(summary.results).toHaveLength(8);
    // Nothing is drawn over and over where there is no terminal.
    expect(stderr).not.toContain('\r');
  });

  test('one strategy and seed use the folder itself; markdown on request; view function; single clients', async () => {
    const run = join(folder, 'single');
    const args = [
      '--rounds',
      '1',
      '--view',
      'function',
      '--clients',
      'color,count',
      '--format',
      'markdown',
      '--run',
      run,
    ];
    const { stdout } = await succeed('federate', data, '--model', model, ...quickRun, ...args);
    expect(stdout).toMatch(
      /\| strategy \| evaluated \| color \| count \| mean \|\n\| --- \| --- \| ---: \| ---: \| ---: \|\n/,
    );
    expect(await metricsOf(run)).toMatchObject([{ number: 1, strategy: 'feddat' }]);
    const again = await succeed('federate', data, '--model', model, ...quickRun, ...args, '--resume');
    expect(again.stderr).toMatch(/was complete before/);
    expect(again.stdout.split('\n').slice(1, 5)).toEqual(stdout.split('\n').slice(1, 5));
  });

  test('keeps to the strategies and seeds a folder was begun with, whichever came first', async () => {
    const rounds = ['--rounds', '1', '--strategy'];
    const federate = (run: string, ...args: string[]) =>
      duet('federate', data, '--model', model, ...quickRun, ...rounds, ...args, '--run', join(folder, run));
    const begun: [string, string[]][] = [
      ['begun-single', ['local']],
      ['begun-strategies', ['local,fedavg']],
      ['begun-seeds', ['local', '--seed', '1,2']],
    ];
    for (const [run, args] of begun) expect((await federate(run, ...args)).status).toBe(0);
    for (const [run] of begun) {
      for (const [other, args] of begun) {
        if (run === other) continue;
        const { status, stderr } = await federate(run, ...args, '--resume');
        expect([status, stderr]).toEqual([1, expect.stringMatching(/resume with the strategies and seeds/)]);
      }
    }
    const more = await federate('begun-strategies', 'local,fedavg,feddat', '--resume');
    expect([more.status, more.stderr.match(/was complete before/g)?.length]).toEqual([0, 2]);
  });

  test('names what differs when a run is resumed with other options', async () => {
    const run = join(folder, 'other');
    const zero = ['--clear-gradients', 'zero'];
    await succeed('federate', data, '--model', model, ...quickRun, '--rounds', '1', '--run', run, ...zero);
    const { status, stderr } = await duet(
      'federate',
      data,
      '--model',
      model,
      ...quickRun,
      '--rounds',
      '2',
      '--run',
      run,
      '--resume',
    );
    expect([status, stderr]).toEqual([
      1,
      expect.stringMatching(
        /other settings: strategy.clearGradients was "zero" and is "none"; rounds was 1 and is 2\./,
      ),
    ]);
    const fresh = await duet('federate', data, '--model', model, ...quickRun, '--rounds', '1', '--run', run);
    expect(fresh.stderr).toMatch(/already holds a run; resume it \(--resume\)/);
  });

  test('skips bad samples of training and evaluation, counts them, tells once and writes data.json', async () => {
    const damaged = join(folder, 'damaged');
    await cp(data, damaged, { recursive: true });
    const edit = async (file: string, change: (json: Record<string, Record<string, unknown>[]>) => void) => {
      const json = JSON.parse(await readFile(join(damaged, file), 'utf8'));
      change(json);
      await writeFile(join(damaged, file), JSON.stringify(json));
    };
    const pictures: number[] = [];
    await edit('questions_poster_train.json', ({ questions }) => {
      pictures.push(...new Set(questions!.map(({ image_id: id }) => id as number)));
      questions!.push({ question: 'What has no id?' });
    });
    const [corrupt, missing] = pictures;
    await writeFile(join(damaged, `images/poster/${corrupt}.png`), 'not a picture');
    await rm(join(damaged, `images/poster/${missing}.png`));
    await edit('questions_outline_val.json', ({ questions }) => {
      questions!.push({ ...questions![0] });
      questions![1]!.question = '';
    });
    await edit('annotations_outline_val.json', ({ annotations }) => {
      Object.assign(annotations![2]!, { answers: [{ answer: 'never heard' }], multiple_choice_answer: '' });
    });
    const run = join(folder, 'damaged-run');
    const args = ['--strategy', 'local,centralised', '--rounds', '1', '--run', run];
    const { stderr } = await succeed('federate', damaged, '--model', model, ...quickRun, ...args);
    expect(stderr.match(/^.* data: .*$/gm)).toEqual([
      expect.stringMatching(
        /^training data: 4 of \d+ questions skipped \(3 missing picture, 1 malformed question\); for example missing/,
      ),
      expect.stringMatching(
        /^evaluation data: 2 of \d+ questions skipped \(2 malformed question\); 1 without a known answer \(counted as wrong\); for example malformed question: entry 1 of .*_val.json has no text$/,
      ),
      expect.stringMatching(
        /^training data: 7 of \d+ questions skipped \(3 missing picture, 3 corrupt picture, 1 malformed question\);/,
      ),
    ]);
    const { train, evaluation } = JSON.parse(await readFile(join(run, 'local/data.json'), 'utf8'));
    expect(train).toMatchObject([
      { name: 'client poster (train)', skipped: { 'missing picture': 3, 'corrupt picture': 3 } },
      { name: 'client outline (train)', skipped: {}, unanswerable: 0 },
      {
        questions: 1,
        kept: 0,
        skipped: { 'malformed question': 1 },
        examples: [expect.stringMatching(/has no id/)],
      },
    ]);
    expect(evaluation).toMatchObject([
      { name: 'client poster (val)', skipped: {}, unanswerable: 0 },
      { name: 'client outline (val)', skipped: { 'malformed question': 1 }, unanswerable: 1 },
      { skipped: { 'malformed question': 1 }, examples: [expect.stringMatching(/has the id of an earlier/)] },
    ]);
    const pooled = JSON.parse(await readFile(join(run, 'centralised/data.json'), 'utf8'));
    expect(pooled.train[0]).toMatchObject({ name: 'all clients', skipped: { 'corrupt picture': 3 } });
    expect(pooled.evaluation).toEqual(evaluation);
  });
});

describe('duet golden', () => {
  const known = hasShared('golden', 'feddat');

  test.skipIf(!known)('passes on the reference numbers', async () => {
    const { stdout } = await succeed('golden', sharedPath('golden', 'feddat'), '--threads', '1');
    expect(stdout).toMatch(/^pass {2}federation\/intended_weighted +error \S+ of \S+ +\d+ numbers$/m);
    expect(stdout).toMatch(/^skip {2}federation\/asis +a bug of the published program/m);
    expect(stdout).toMatch(/^skip {2}albef_tiny +ALBEF is not in this version$/m);
    expect(stdout).toMatch(/^\d+ passed, 0 failed, 3 skipped$/m);
  });

  test.skipIf(!known)('fails when a number is wrong, names the tensor and goes on', async () => {
    const wrong = join(folder, 'wrong');
    await cp(sharedPath('golden', 'feddat', 'tokenizer'), join(wrong, 'tokenizer'), { recursive: true });
    await cp(sharedPath('golden', 'feddat', 'kl_loss'), join(wrong, 'kl_loss'), { recursive: true });
    const cases = JSON.parse(await readFile(join(wrong, 'tokenizer/cases.json'), 'utf8'));
    cases.input_ids[1][2] += 1;
    await rm(join(wrong, 'tokenizer/cases.json'), { force: true });
    await writeFile(join(wrong, 'tokenizer/cases.json'), JSON.stringify(cases));
    const { status, stdout } = await duet('golden', wrong);
    expect(status).toBe(1);
    expect(stdout).toMatch(/^FAIL {2}tokenizer\/cases +error 1.0e\+0 of 0.0e\+0 +at ids of "How many/m);
    expect(stdout).toMatch(/^\d+ passed, 1 failed, 0 skipped$/m);
  });

  test('skips what it does not know', async () => {
    const numbers = join(folder, 'numbers');
    await mkdir(join(numbers, 'a_new_case'), { recursive: true });
    await native.writeSafetensors(join(numbers, 'a_new_case', 'io.safetensors'), {}, {});
    const { stdout } = await duet('golden', numbers);
    expect(stdout).toMatch(/^skip {2}a_new_case +not a case this version knows$/m);
  });
});

describe('the other commands', () => {
  test('duet info --json', async () => {
    const facts = JSON.parse((await succeed('info', '--json')).stdout);
    expect(facts).toMatchObject({
      node: process.versions.node,
      'duet-train': expect.stringMatching(/^\d+\.\d+\.\d+/),
    });
    expect(['avx512', 'avx2', 'generic']).toContain(facts.isa);
  });

  test('duet info without an addon says why', async () => {
    vi.stubEnv('DUET_ADDON', join(folder, 'no.node'));
    const { status, stderr } = await duet('info');
    vi.unstubAllEnvs();
    expect([status, stderr]).toEqual([
      1,
      expect.stringMatching(/Cannot load the native part of duet-train: .*no\.node/),
    ]);
  });

  test('duet pretrain writes a folder that can be opened elsewhere', async () => {
    const names = await readdir(model);
    for (const name of [
      'config.json',
      'model.safetensors',
      'vocab.txt',
      'preprocessor_config.json',
      'answers.json',
    ]) {
      expect(names).toContain(name);
    }
    const moved = join(folder, 'moved');
    await cp(model, moved, { recursive: true });
    await copyFile(join(model, 'heads.safetensors'), join(moved, 'heads.safetensors'));
    await succeed('federate', data, '--model', moved, ...quickRun, '--rounds', '1');
  });

  test('duet quickstart does everything, and nothing twice', async () => {
    const run = join(folder, 'quick');
    const args = [
      'quickstart',
      '--run',
      run,
      '--pictures',
      '4',
      '--epochs',
      '1',
      '--rounds',
      '1',
      '--sticker-steps',
      '2',
      '--threads',
      '1',
    ];
    const first = await succeed(...args);
    expect(first.stdout).toMatch(/│ centralised +│ shared adapter/);
    expect(first.stdout).toMatch(/│ feddat +│ gated/);
    expect(first.stdout).toContain(`run folder: ${run}`);
    const second = await succeed(...args);
    expect(second.stderr.match(/was complete before/g)).toHaveLength(4);
    expect(second.stderr).not.toMatch(/pretraining/);
    const other = await duet(...args, '--epochs', '2');
    expect([other.status, other.stderr]).toEqual([
      1,
      expect.stringMatching(/model\/training has other settings: epochs was 1 and is 2\./),
    ]);
  });

  test('what is said after Ctrl-C can be pasted into a shell', () => {
    expect(resumeCommand(['federate', 'my data', '--run', "it's"])).toBe(
      "duet federate 'my data' --run 'it'\\''s' --resume",
    );
    expect(resumeCommand(['federate', 'data', '--resume'])).toBe('duet federate data --resume');
    const words = ['quickstart', '--run', 'my run', '--pictures', '30'];
    expect(againCommand(words, undefined)).toBe("duet quickstart --run 'my run' --pictures 30");
    expect(againCommand(words, 'test')).toBe("duet quickstart --run 'my run' --pictures 30");
    expect(againCommand(words, 'quickstart')).toBe("npm run quickstart -- --run 'my run' --pictures 30");
    expect(againCommand(['quickstart'], 'quickstart')).toBe('npm run quickstart');
  });
});
