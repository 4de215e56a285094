/** The image library, loaded at the first picture: it takes 20 MB and 50 ms that a process without pictures can spare. */

import type sharp from 'sharp';

let loading: Promise<typeof sharp> | undefined;

export function imageLibrary(): Promise<typeof sharp> {
  loading ??= import('sharp').then((library) => library.default);
  return loading;
}
