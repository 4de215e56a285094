// A headless Chromium that opens animation files and says what it shows of them.

import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { createServer, type RequestListener } from 'node:http';
import type { AddressInfo } from 'node:net';
import { delimiter, extname, join } from 'node:path';
import { json } from 'node:stream/consumers';
import { temporaryFolder } from './data-support.js';

const PROGRAMS = ['chromium-headless-shell', 'chromium', 'chromium-browser', 'google-chrome'];
const TYPES: Record<string, string> = { '.gif': 'image/gif', '.webp': 'image/webp' };
const PATIENCE_MS = 60_000 * Number(process.env.DUET_TEST_PATIENCE ?? 1);
const PAGE = new URL('./support/animation-page.js', import.meta.url);

/** The browser's program; undefined, with the reason printed, where there is none. */
export const browser = process.env.DUET_BROWSER ?? firstProgram();
if (!browser) {
  console.log(
    `skipped: no browser opens the generated files, for none of ${PROGRAMS.join(', ')} is installed (DUET_BROWSER names another)`,
  );
}

function firstProgram(): string | undefined {
  const folders = (process.env.PATH ?? '').split(delimiter);
  return PROGRAMS.flatMap((name) => folders.map((folder) => join(folder, name))).find((path) =>
    existsSync(path),
  );
}

export interface Shown {
  frames: { width: number; height: number; durationMs: number; rgba: number[] }[];
  /** How often it is played again; `Infinity` for ever. */
  repetitions: string;
  /** RGBA of the first frame over green. */
  onGreen: number[];
}

type Told = { results: Shown[] } | { error: string };

/** Opens the files in one page. */
export async function showInBrowser(program: string, paths: readonly string[]): Promise<Shown[]> {
  const profile = await temporaryFolder();
  let tell: (told: Told) => void = () => {};
  const told = new Promise<Told>((resolve) => {
    tell = resolve;
  });
  const server = createServer(pageOf(paths, tell));
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  // The page is the tests' own, and root may not use the sandbox.
  const flags = ['--headless', '--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-dev-shm-usage'];
  // A group of its own: the program may be a script around the browser.
  const child = spawn(program, [...flags, `--user-data-dir=${profile}`, `http://127.0.0.1:${port}/`], {
    detached: true,
    env: { ...process.env, LD_PRELOAD: '' }, // a sanitizer of the tests is not for the browser
  });
  let words = '';
  for (const stream of [child.stdout, child.stderr])
    stream.on('data', (text: Buffer) => {
      words += text;
    });
  const ended = new Promise<Told>((resolve) => {
    child.on('error', ({ message }) => resolve({ error: message }));
    child.on('close', (status, signal) => resolve({ error: `it ended with ${status ?? signal}` }));
  });
  const timeout = setTimeout(() => tell({ error: `it said nothing for ${PATIENCE_MS} ms` }), PATIENCE_MS);
  const outcome = await Promise.race([told, ended]);
  clearTimeout(timeout);
  try {
    if (child.pid !== undefined) process.kill(-child.pid, 'SIGKILL');
  } catch {} // it ended by itself
  await ended;
  server.closeAllConnections();
  server.close();
  if ('results' in outcome) return outcome.results;
  throw new Error(`Expected what ${program} shows but ${outcome.error}:\n${words}`);
}

/** Serves the page and the files, and takes what the page posts. */
function pageOf(paths: readonly string[], tell: (told: Told) => void): RequestListener {
  const files = paths.map((path, index) => ({
    path,
    url: `/${index}`,
    type: TYPES[extname(path)] as string,
  }));
  return async (request, response) => {
    const send = (type: string, body: string | Buffer) => response.setHeader('content-type', type).end(body);
    const file = files.find(({ url }) => url === request.url);
    if (file) send(file.type, await readFile(file.path));
    else if (request.url === '/') send('text/html', '<script type="module" src="/page.js"></script>');
    else if (request.url === '/page.js') send('text/javascript', await readFile(PAGE));
    else if (request.url === '/files') send('application/json', JSON.stringify(files));
    else if (request.url === '/result') {
      tell((await json(request)) as Told);
      response.end();
    } else response.writeHead(404).end();
  };
}
