import { camelNames, camelNamesDeep } from '../wire-names.js';

export interface Model {
  readonly id: string;
  readonly name: string;
  readonly [field: string]: unknown;
}

export type VersionStatus = 'validating' | 'converting' | 'draft' | 'published' | 'deprecated';

export interface ModelVersion {
  /** Semantic version. */
  readonly version: string;
  /** `validating` while a file that went past the coordinator is checked, `converting` until every format exists; then `draft`, until it is published. */
  readonly status: VersionStatus | (string & {});
  readonly [field: string]: unknown;
}

/** One format of a version that is being made from the file that was uploaded. */
export interface Conversion {
  readonly format: string;
  readonly state: 'pending' | 'running' | 'ready' | 'failed' | (string & {});
  readonly reasonCode: string | null;
  readonly reason: string | null;
  readonly [field: string]: unknown;
}

export interface ModelFields {
  readonly framework?: string;
  readonly frameworkVersion?: string;
  readonly useCase?: string;
  /** At most 1,000 characters. */
  readonly description?: string;
  readonly isBaseline?: boolean;
}

/** A part of a list. */
export interface Paging {
  /** Default: all. */
  readonly limit?: number | undefined;
  readonly offset?: number | undefined;
  readonly signal?: AbortSignal | undefined;
}

export interface ModelFilter {
  readonly framework?: string;
  readonly useCase?: string;
  readonly isBaseline?: boolean;
}

/** Which version of which model. */
export interface OfVersion {
  /** Name or id. */
  readonly modelId: string;
  /** Semantic version, its number, or `latest`. */
  readonly version: string;
  readonly signal?: AbortSignal | undefined;
}

export function readModel(value: unknown): Model {
  const fields = camelNames(value as Record<string, unknown>);
  return { ...fields, id: String(fields['id']), name: String(fields['name']) };
}

export function readVersion(value: unknown): ModelVersion {
  const fields = camelNames(value as Record<string, unknown>);
  return { ...fields, version: String(fields['version']), status: String(fields['status'] ?? '') };
}

export function readConversion(value: unknown): Conversion {
  const fields = camelNamesDeep(value as Record<string, unknown>);
  const text = (name: string): string | null => (typeof fields[name] === 'string' ? (fields[name] as string) : null);
  return {
    ...fields,
    format: String(fields['format']),
    state: String(fields['state'] ?? fields['status']),
    reasonCode: text('reasonCode'),
    reason: text('reason'),
  };
}
