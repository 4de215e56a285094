/** How a node becomes one of a SuperLink's nodes, comes back after a crash or the SuperLink's restart, and leaves. */

import { DuetError, messageOf } from '../../errors.js';
import { KEYGEN, type NodeIdentity } from './authentication.js';
import type { Caller } from './exchange.js';
import { hasStatus } from './fleet-error.js';

/** Who a node is to its SuperLink. */
export interface Membership {
  identity: NodeIdentity;
  /** Whether the node made its key itself. */
  ownKey: boolean;
  /** As the SuperLink last called it. */
  nodeId: bigint | undefined;
  /** Whether the node registered itself, and so unregisters itself. */
  selfRegistered: boolean;
}

interface Joining {
  call: Caller['call'];
  wait: Caller['wait'];
  onRetry(retry: { what: string; reason: string; seconds: number }): void;
  heartbeatSeconds: number;
}

/** FlowerErrors of newer SuperLinks; older ones have words only. */
const REGISTRATION_DISABLED = 2001;

/**
 * Joins and sets `nodeId`. A node that the SuperLink still knows says that it lives: activating it again is refused until two heartbeats
 * were missed.
 * @throws DuetError UNAUTHENTICATED when the SuperLink refuses the key
 */
export async function joinFleet(membership: Membership, joining: Joining): Promise<void> {
  const { call, heartbeatSeconds } = joining;
  const { identity } = membership;
  const { publicKey } = identity;
  if (membership.nodeId !== undefined && (await isKnown(membership.nodeId, joining))) return;
  const untilMs = Date.now() + (2 * heartbeatSeconds + 10) * 1000;
  for (let tries = 1; ; tries++) {
    // A registered key needs no registration; where the SuperLink takes any node, a given key is registered too.
    let closed = false;
    if (membership.ownKey || tries > 1) closed = await register(membership, joining);
    try {
      const request = { publicKey, heartbeatInterval: heartbeatSeconds };
      membership.nodeId = (await call('activateNode', request)).nodeId;
      return;
    } catch (error) {
      if (!hasStatus(error, 'FAILED_PRECONDITION')) throw error;
      if (tries === 1 && !membership.ownKey) continue;
      const unknown = closed && /No SuperNode found/i.test(error.details);
      if (unknown || Date.now() > untilMs) throw refused(identity, error);
      const seconds = Math.min(5, tries);
      joining.onRetry({
        what: 'activateNode',
        reason:
          'the SuperLink does not activate this node yet: it was online a moment ago (then it will within ' +
          `${2 * heartbeatSeconds} seconds), another process uses its key, or the key is not registered`,
        seconds,
      });
      await joining.wait(seconds);
    }
  }
}

async function isKnown(nodeId: bigint, { call, heartbeatSeconds }: Joining): Promise<boolean> {
  try {
    const request = { node: { nodeId }, heartbeatInterval: heartbeatSeconds };
    return (await call('sendNodeHeartbeat', request)).success;
  } catch (error) {
    if (hasStatus(error, 'UNAUTHENTICATED')) return false;
    throw error;
  }
}

/** @returns whether the SuperLink takes registered nodes only */
async function register(membership: Membership, { call }: Joining): Promise<boolean> {
  const { identity, ownKey } = membership;
  try {
    await call('registerNode', { publicKey: identity.publicKey });
    membership.selfRegistered = true;
    return false;
  } catch (error) {
    if (!hasStatus(error, 'FAILED_PRECONDITION')) throw error;
    const closed =
      error.flowerCode === REGISTRATION_DISABLED || /authentication is enabled/i.test(error.details);
    // Otherwise the key is registered already.
    if (closed && ownKey) {
      throw new DuetError(
        'UNAUTHENTICATED',
        `The SuperLink takes registered nodes only; make a key (${KEYGEN}), ` +
          'have the operator run `flwr supernode register node.key.pub`, and give the key to this node',
        { cause: error },
      );
    }
    return closed;
  }
}

function refused(identity: NodeIdentity, error: unknown): DuetError {
  return new DuetError(
    'UNAUTHENTICATED',
    `The SuperLink refuses this node's key (${messageOf(error)}); have the operator run \`flwr supernode register\` with ` +
      `its public key (${identity.openSshPublicKey}), and run one process a key`,
    { cause: error },
  );
}

/** @param forGood whether a node that registered itself unregisters itself. @returns whether the SuperLink has forgotten it */
export async function leaveFleet(
  { nodeId, selfRegistered }: Membership,
  forGood: boolean,
  call: Caller['call'],
): Promise<boolean> {
  if (nodeId === undefined) return true;
  await call('deactivateNode', { nodeId });
  if (!forGood || !selfRegistered) return false;
  await call('unregisterNode', { nodeId });
  return true;
}
