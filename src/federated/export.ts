/** A client's tuned parameters as files, under the names of the published FedDAT state dict. */

import { join } from 'node:path';
import { requireText } from '../arguments.js';
import { publishedName } from '../models/names.js';
import type { Vilt } from '../models/vilt.js';
import type { TensorData, Tensors } from '../native/core.js';
import { native } from '../native.js';
import { makeFolder } from '../run/files.js';
import type { FederatedClient } from './client.js';

/** @returns paths by client */
export async function exportClients(
  model: Vilt,
  clients: readonly { client: FederatedClient; tensors: Tensors }[],
  about: Record<string, string | number>,
  folder: string,
): Promise<Map<string, string>> {
  await makeFolder(requireText(folder, 'folder'), `make the folder ${folder}`);
  const paths = new Map<string, string>();
  for (const [index, { client, tensors }] of clients.entries()) {
    const published: Record<string, TensorData> = {};
    for (const [name, tensor] of Object.entries(model.withShapes(tensors)))
      published[publishedName(name)] = tensor;
    const safe = client.name.replace(/[^A-Za-z0-9._-]/g, '_');
    const path = join(
      folder,
      `${[...paths.values()].includes(join(folder, `${safe}.safetensors`)) ? `${safe}-${index}` : safe}.safetensors`,
    );
    const metadata = { format: 'pt', client: client.name, about: JSON.stringify(about) };
    await native.writeSafetensors(path, published, metadata);
    paths.set(client.name, path);
  }
  return paths;
}
