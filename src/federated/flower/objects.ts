/** Flower's content-addressed objects: a message taken apart into hashed pieces, and put together again. */

/** One piece of a message. */
export interface EncodedObject {
  /** sha256 of `bytes`, hex. */
  id: string;
  type: string;
  bytes: Uint8Array;
  /** Unique ids in the order of their first appearance. */
  children: string[];
}

export interface ObjectTree {
  objectId: string;
  children: ObjectTree[];
}
