/**
 * Stands between one node and the HTTP Fleet API of a SuperLink, sees which method is called, and can hold calls back or change what
 * comes back: for tests of a node that dies, of damaged objects and of slow lines.
 */

import { createServer, type IncomingMessage, request, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { buffer } from 'node:stream/consumers';

/** What happens to a call; every method is called by its name in the path, e.g. `push-object`. */
export interface ProxyHooks {
  /** Before the call is passed on; what it returns replaces the body, `drop` hangs up on the node. */
  before?(method: string, body: Buffer): Promise<Buffer | 'drop' | undefined> | Buffer | 'drop' | undefined;
  /** Before the answer goes back; what it returns replaces the body. */
  after?(method: string, body: Buffer): Promise<Buffer | undefined> | Buffer | undefined;
}

export class FleetProxy {
  readonly #server: Server;
  readonly #target: string;
  /** Methods in the order of their calls. */
  readonly calls: string[] = [];
  hooks: ProxyHooks = {};

  private constructor(target: string) {
    this.#target = target;
    this.#server = createServer((incoming, outgoing) => {
      this.#pass(incoming, outgoing).catch(() => outgoing.destroy());
    });
  }

  /** @param target host:port of the SuperLink */
  static async start(target: string, hooks: ProxyHooks = {}): Promise<FleetProxy> {
    const proxy = new FleetProxy(target);
    proxy.hooks = hooks;
    await new Promise<void>((resolve) => proxy.#server.listen(0, '127.0.0.1', resolve));
    return proxy;
  }

  get address(): string {
    return `localhost:${(this.#server.address() as AddressInfo).port}`;
  }

  async #pass(incoming: IncomingMessage, outgoing: ServerResponse): Promise<void> {
    const method = incoming.url?.split('/').at(-1) ?? '';
    this.calls.push(method);
    const given = await buffer(incoming);
    const body = (await this.hooks.before?.(method, given)) ?? given;
    if (body === 'drop') {
      outgoing.destroy();
      return;
    }
    const answer = await new Promise<IncomingMessage>((resolve, reject) => {
      const { 'transfer-encoding': _, ...kept } = incoming.headers;
      const headers = { ...kept, 'content-length': body.length };
      request(`http://${this.#target}${incoming.url}`, { method: incoming.method, headers }, resolve)
        .on('error', reject)
        .end(body);
    });
    const received = await buffer(answer);
    const content = (await this.hooks.after?.(method, received)) ?? received;
    const { 'transfer-encoding': _, connection: __, ...headers } = answer.headers;
    outgoing.writeHead(answer.statusCode ?? 502, { ...headers, 'content-length': content.length });
    outgoing.end(content);
  }

  stop(): void {
    this.#server.closeAllConnections();
    this.#server.close();
  }
}
