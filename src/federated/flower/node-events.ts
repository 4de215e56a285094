/** What a node tells of itself. */

/** What a node is doing. */
export type NodeState = 'joining' | 'waiting' | 'pulling' | 'working' | 'pushing' | 'leaving' | 'stopped';

/** How a message ended. */
export interface MessageOutcome {
  id: string;
  type: string;
  /** `dropped`: no answer was sent, for nobody waits for one. */
  outcome: 'answered' | 'error' | 'dropped';
  reason?: string;
  /** From the pull, or the restart, to the end. */
  seconds: number;
}

/** Something failed and is tried again. */
export interface Retry {
  what: string;
  reason: string;
  /** Until the next try. */
  seconds: number;
}

/** Callbacks of a node. */
export interface NodeEvents {
  /** It does something else now. */
  onState?(state: NodeState): void;
  /** A message has ended. */
  onMessage?(outcome: MessageOutcome): void;
  /** Something failed and is tried again. */
  onRetry?(retry: Retry): void;
  /** Of requests and answers, as protobuf. */
  onBytes?(up: number, down: number): void;
}

/** What a node has done. */
export interface NodeCounters {
  bytesUp: number;
  bytesDown: number;
  messages: number;
  answered: number;
  errors: number;
  dropped: number;
  retries: number;
  joins: number;
}

export function noCounts(): NodeCounters {
  return {
    bytesUp: 0,
    bytesDown: 0,
    messages: 0,
    answered: 0,
    errors: 0,
    dropped: 0,
    retries: 0,
    joins: 0,
  };
}
