import { OctomilError } from '@octomil/shared/errors';

/** What a model may cost. Checked on names and numbers alone, before anything is allocated. */
export interface ModelCaps {
  /** Numbers in all weights together. Default 250 million. */
  readonly maxParameters: number;
  /** Bytes of all weights as F32. Default 1,000,000,000. */
  readonly maxBytes: number;
  /** Layers of a topology. Default 1,000. */
  readonly maxLayers: number;
  /** Numbers that one layer may give for one row. Default 64 Mi. */
  readonly maxActivations: number;
  /** Characters of keys and values in a topology. Default 4 Mi. */
  readonly maxTopologySize: number;
  /** Nesting of a topology's JSON. Default 64. */
  readonly maxTopologyDepth: number;
}

export const DEFAULT_CAPS: ModelCaps = {
  maxParameters: 250_000_000,
  maxBytes: 1_000_000_000,
  maxLayers: 1_000,
  maxActivations: 64 * 1024 * 1024,
  maxTopologySize: 4 * 1024 * 1024,
  maxTopologyDepth: 64,
};

/** @throws OctomilError `too_large` with the value and the limit */
export function refuseAbove(what: string, value: number, limit: number, setting: keyof ModelCaps): void {
  if (value <= limit) return;
  throw new OctomilError(
    'too_large',
    `${what} is ${value.toLocaleString('en')}, more than the ${limit.toLocaleString('en')} that ${setting} allows`,
    { details: { value, limit, setting } },
  );
}

/**
 * Checks the size and depth of JSON that came from outside, without recursion and without writing it out.
 *
 * @throws OctomilError `too_large` naming `maxTopologySize` or `maxTopologyDepth`
 */
export function checkJsonSize(json: unknown, caps: ModelCaps): void {
  const open: { value: unknown; depth: number }[] = [{ value: json, depth: 1 }];
  let size = 0;
  for (let next = open.pop(); next !== undefined; next = open.pop()) {
    const { value, depth } = next;
    size += typeof value === 'string' ? value.length + 2 : 4;
    if (typeof value === 'object' && value !== null) {
      refuseAbove('depth of the topology', depth, caps.maxTopologyDepth, 'maxTopologyDepth');
      for (const [key, inner] of Object.entries(value)) {
        size += key.length + 4;
        open.push({ value: inner, depth: depth + 1 });
      }
    }
    refuseAbove('size of the topology', size, caps.maxTopologySize, 'maxTopologySize');
  }
}
