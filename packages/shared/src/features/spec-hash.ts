import { createHash } from 'node:crypto';
import type { FeatureSpec } from './feature-spec.js';

/** SHA-256 (hex) of the canonical JSON of the spec without its hash. */
export function hashFeatureSpec(spec: Omit<FeatureSpec, 'hash'>): string {
  const { hash: _, ...content } = spec as FeatureSpec;
  return createHash('sha256').update(canonicalJson(content)).digest('hex');
}

/** Adds the hash. */
export function sealFeatureSpec(content: Omit<FeatureSpec, 'hash'>): FeatureSpec {
  return { ...content, hash: hashFeatureSpec(content) };
}

/** JSON with sorted keys and no spaces, as RFC 8785 for the values that a spec has. */
function canonicalJson(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(canonicalJson).join(',')}]`;
  if (typeof value !== 'object' || value === null) return JSON.stringify(value);
  const members = Object.entries(value)
    .filter(([, member]) => member !== undefined)
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([key, member]) => `${JSON.stringify(key)}:${canonicalJson(member)}`);
  return `{${members.join(',')}}`;
}
