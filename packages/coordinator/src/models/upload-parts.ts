import { OctomilError } from '@octomil/shared/errors';
import type { ByteSource, ObjectStore } from '@octomil/shared/storage';

/** What an upload was announced to be. */
export interface UploadPlan {
  readonly fileName: string;
  /** undefined: known only when it is confirmed; then it comes whole. */
  readonly sizeBytes: number | undefined;
  /** The last part is what remains. */
  readonly partSizeBytes: number | undefined;
}

export interface ArrivedPart {
  /** From 1. */
  readonly number: number;
  readonly key: string;
  readonly sizeBytes: number;
}

const DEFAULT_PART_BYTES = 64 * 1024 * 1024;
const MIN_PART_BYTES = 64 * 1024;
const MAX_PARTS = 10_000;
const MAX_PLAN_BYTES = 4096;

/** @throws OctomilError `invalid_input`, `too_large` */
export function parsePlan(
  request: { sizeBytes?: number; partSizeBytes?: number },
  fileName: string,
  maxBytes: number,
): UploadPlan {
  const { sizeBytes, partSizeBytes } = request;
  if (sizeBytes === undefined) {
    if (partSizeBytes === undefined) return { fileName, sizeBytes: undefined, partSizeBytes: undefined };
    throw new OctomilError('invalid_input', 'part_size_bytes needs size_bytes beside it');
  }
  if (sizeBytes > maxBytes) {
    throw new OctomilError('too_large', `size_bytes is ${sizeBytes}, more than the ${maxBytes} allowed`, {
      details: { limit_bytes: maxBytes },
    });
  }
  const size = partSizeBytes ?? Math.max(DEFAULT_PART_BYTES, Math.ceil(sizeBytes / MAX_PARTS));
  if (size < MIN_PART_BYTES || sizeBytes > size * MAX_PARTS) {
    throw new OctomilError(
      'invalid_input',
      `part_size_bytes is ${size}; it must be at least ${MIN_PART_BYTES} and make ${MAX_PARTS} parts at most`,
    );
  }
  return { fileName, sizeBytes, partSizeBytes: size };
}

/** 0 parts: it comes whole. */
export function layoutOf({ sizeBytes, partSizeBytes }: UploadPlan): {
  partCount: number;
  bytesOf(number: number): number;
} {
  if (sizeBytes === undefined || partSizeBytes === undefined) return { partCount: 0, bytesOf: () => 0 };
  return {
    partCount: Math.ceil(sizeBytes / partSizeBytes),
    bytesOf: (number) => Math.min(partSizeBytes, sizeBytes - (number - 1) * partSizeBytes),
  };
}

/** The plan and the parts of uploads, as objects beside the one they will be. They go when it is confirmed or abandoned. */
export class UploadParts {
  readonly #objects: ObjectStore;

  constructor(objects: ObjectStore) {
    this.#objects = objects;
  }

  async keepPlan(storageKey: string, plan: UploadPlan): Promise<void> {
    const text = JSON.stringify({ n: plan.fileName, s: plan.sizeBytes, p: plan.partSizeBytes });
    await this.#objects.put(planKey(storageKey), Buffer.from(text));
  }

  /** @throws OctomilError `transfer_incomplete` when the upload is over */
  async planOf(storageKey: string): Promise<UploadPlan> {
    let bytes: Uint8Array;
    try {
      bytes = await this.#objects.readAll(planKey(storageKey), MAX_PLAN_BYTES);
    } catch (error) {
      if (!(error instanceof OctomilError) || (error.code !== 'not_found' && error.code !== 'invalid_input'))
        throw error;
      throw new OctomilError(
        'transfer_incomplete',
        'there is no such upload: it was confirmed, given up, or never begun; ask for an upload-url again',
        { cause: error },
      );
    }
    const { n, s, p } = JSON.parse(Buffer.from(bytes).toString()) as { n: string; s?: number; p?: number };
    return { fileName: n, sizeBytes: s, partSizeBytes: p };
  }

  /**
   * @param limited gives the bytes to store, and throws beyond the number given
   * @throws OctomilError `invalid_input` for a number that is none, `too_large`, `transfer_incomplete` for too few bytes
   */
  async put(storageKey: string, number: number, limited: (limitBytes: number) => ByteSource): Promise<number> {
    const layout = layoutOf(await this.planOf(storageKey));
    if (layout.partCount === 0) {
      throw new OctomilError('invalid_input', 'this upload has no parts; ask for an upload-url with size_bytes');
    }
    if (number < 1 || number > layout.partCount) {
      throw new OctomilError('invalid_input', `part ${number} does not exist; they go from 1 to ${layout.partCount}`);
    }
    const expected = layout.bytesOf(number);
    const key = `${partsKey(storageKey)}${String(number).padStart(5, '0')}`;
    const { sizeBytes } = await this.#objects.put(key, limited(expected));
    if (sizeBytes === expected) return sizeBytes;
    await this.#objects.delete(key);
    throw new OctomilError(
      'transfer_incomplete',
      `part ${number} has ${expected} bytes and ${sizeBytes} arrived; send it again`,
      { details: { part: number, received_bytes: sizeBytes, size_bytes: expected } },
    );
  }

  /** In order. */
  async arrived(storageKey: string): Promise<ArrivedPart[]> {
    const parts: ArrivedPart[] = [];
    for await (const { key, sizeBytes } of this.#objects.list(partsKey(storageKey))) {
      parts.push({ number: Number(key.slice(-5)), key, sizeBytes });
    }
    return parts.sort((a, b) => a.number - b.number);
  }

  /** All parts, one after the other. @throws OctomilError `transfer_incomplete` naming those that are missing */
  async joined(storageKey: string): Promise<AsyncIterable<Uint8Array>> {
    const layout = layoutOf(await this.planOf(storageKey));
    const parts = await this.arrived(storageKey);
    const have = new Set(parts.map(({ number }) => number));
    const missing = Array.from({ length: layout.partCount }, (_, index) => index + 1).filter((n) => !have.has(n));
    if (missing.length > 0) {
      throw new OctomilError(
        'transfer_incomplete',
        `${missing.length} of ${layout.partCount} parts are missing, such as ${missing.slice(0, 5).join(', ')}; upload them`,
        { details: { missing_parts: missing.slice(0, 100) } },
      );
    }
    const objects = this.#objects;
    return (async function* () {
      for (const { key } of parts) yield* objects.read(key);
    })();
  }

  /** Everything that the upload left. Safe to repeat. */
  async discard(storageKey: string): Promise<void> {
    for (const { key } of await this.arrived(storageKey)) await this.#objects.delete(key);
    await this.#objects.delete(planKey(storageKey));
    await this.#objects.delete(storageKey);
  }
}

function folderOf(storageKey: string): string {
  return storageKey.slice(0, storageKey.lastIndexOf('/'));
}

function planKey(storageKey: string): string {
  return `${folderOf(storageKey)}/.plan`;
}

function partsKey(storageKey: string): string {
  return `${folderOf(storageKey)}/.parts/`;
}
