import { OctomilError } from '@octomil/shared/errors';
import { type RawBuilder, type SqlBool, sql } from 'kysely';

export type CapabilityValue = string | number | boolean;

/** Which devices are meant. Every field that is given must hold; `{}` means every device. */
export interface DeviceSelector {
  /** Labels that must all be set to exactly these values. */
  readonly labels?: Readonly<Record<string, string>>;
  /** Names or ids of groups: the device must be in at least one of them. */
  readonly groups?: readonly string[];
  /**
   * By name, among what the device's agent or client said of its machine: a value that must be equal or, where the device
   * says a list (`trainers`), be in it; or the least number.
   */
  readonly capabilities?: Readonly<Record<string, CapabilityValue | { readonly min: number }>>;
  /** Ids of devices: it must be one of them. */
  readonly devices?: readonly string[];
}

/** What a selector looks at. */
export interface SelectableDevice {
  readonly id: string;
  readonly labels: Readonly<Record<string, unknown>>;
  readonly capabilities: Readonly<Record<string, unknown>>;
  /** What a published client says of its machine; `capabilities` of the same name go before it. */
  readonly facts: Readonly<Record<string, unknown>>;
  /** Ids and names of the groups it is in. */
  readonly groups: readonly string[];
}

const FIELDS = ['labels', 'groups', 'capabilities', 'devices'] as const;
const MAX_LABELS = 64;
const MAX_CAPABILITIES = 64;
const MAX_GROUPS = 100;
const MAX_DEVICES = 10_000;
const MAX_TEXT_LENGTH = 256;

/**
 * Reads a selector from outside. Null and undefined stand for every device.
 *
 * @param field how the caller's caller knows it, for messages
 * @throws OctomilError `invalid_input` naming the field, the value and the limit
 */
export function parseSelector(value: unknown, field = 'selector'): DeviceSelector {
  if (value === undefined || value === null) return {};
  const given = record(value, field);
  const unknown = Object.keys(given).find((name) => !FIELDS.some((known) => known === name));
  if (unknown !== undefined) {
    throw invalid(`${field}.${unknown.slice(0, 80)}`, `is not known; a selector has ${FIELDS.join(', ')}`);
  }
  const { labels, groups, capabilities, devices } = given;
  return {
    ...(labels === undefined ? {} : { labels: entries(labels, `${field}.labels`, MAX_LABELS, text) }),
    ...(groups === undefined ? {} : { groups: texts(groups, `${field}.groups`, MAX_GROUPS) }),
    ...(capabilities === undefined
      ? {}
      : { capabilities: entries(capabilities, `${field}.capabilities`, MAX_CAPABILITIES, capability) }),
    ...(devices === undefined ? {} : { devices: texts(devices, `${field}.devices`, MAX_DEVICES) }),
  };
}

/** The same answer as {@link selectorSql} gives for the device's row. */
export function matchesSelector(device: SelectableDevice, selector: DeviceSelector): boolean {
  const { labels = {}, groups, capabilities = {}, devices } = selector;
  return (
    Object.entries(labels).every(([name, wanted]) => own(device.labels, name) === wanted) &&
    Object.entries(capabilities).every(([name, wanted]) =>
      satisfies(own(device.capabilities, name) ?? own(device.facts, name), wanted),
    ) &&
    (groups === undefined || groups.some((group) => device.groups.includes(group))) &&
    (devices === undefined || devices.includes(device.id))
  );
}

/** A condition on `devices d`, never null, so that it may also be negated. Organization and status are the caller's. */
export function selectorSql(selector: DeviceSelector): RawBuilder<SqlBool> {
  const { labels = {}, groups, capabilities = {}, devices } = selector;
  const conditions: RawBuilder<SqlBool>[] = [];
  if (Object.keys(labels).length > 0) {
    conditions.push(sql<SqlBool>`d.labels @> ${JSON.stringify(labels)}::text::jsonb`);
  }
  for (const [name, wanted] of Object.entries(capabilities)) conditions.push(capabilitySql(name, wanted));
  if (groups !== undefined) {
    conditions.push(sql<SqlBool>`d.id in (
      select gm.device_id from device_group_members gm join device_groups dg on dg.id = gm.group_id
      where dg.organization_id = d.organization_id and (dg.id = any(${groups}::text[]) or dg.name = any(${groups}::text[])))`);
  }
  if (devices !== undefined) conditions.push(sql<SqlBool>`d.id = any(${devices}::text[])`);
  if (conditions.length === 0) return sql<SqlBool>`true`;
  return sql<SqlBool>`(${sql.join(conditions, sql` and `)})`;
}

function capabilitySql(name: string, wanted: CapabilityValue | { readonly min: number }): RawBuilder<SqlBool> {
  // JSON null says nothing, in both places.
  const value = sql`coalesce(nullif(d.capabilities -> ${name}::text, 'null'), nullif(d.facts -> ${name}::text, 'null'))`;
  if (typeof wanted === 'object') {
    // `case`, for `and` may look at the number before it knows that it is one.
    return sql<SqlBool>`(case when jsonb_typeof(${value}) = 'number' then (${value})::numeric >= ${String(wanted.min)}::text::numeric else false end)`;
  }
  // A list contains a bare value (PostgreSQL 17, 8.14.3); anything else must equal it.
  return sql<SqlBool>`coalesce(${value} @> ${JSON.stringify(wanted)}::text::jsonb, false)`;
}

function satisfies(value: unknown, wanted: CapabilityValue | { readonly min: number }): boolean {
  if (typeof wanted === 'object') return typeof value === 'number' && value >= wanted.min;
  return value === wanted || (Array.isArray(value) && value.includes(wanted));
}

function own(fields: Readonly<Record<string, unknown>>, name: string): unknown {
  return Object.hasOwn(fields, name) ? fields[name] : undefined;
}

function record(value: unknown, field: string): Record<string, unknown> {
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Record<string, unknown>;
  throw invalid(field, 'must be an object');
}

function entries<T>(
  value: unknown,
  field: string,
  most: number,
  read: (value: unknown, field: string) => T,
): Record<string, T> {
  const given = Object.entries(record(value, field));
  if (given.length > most) throw invalid(field, `has ${given.length} entries, more than ${most}`);
  return Object.fromEntries(given.map(([name, inner]) => [text(name, field), read(inner, `${field}.${name}`)]));
}

function texts(value: unknown, field: string, most: number): string[] {
  if (!Array.isArray(value)) throw invalid(field, 'must be a list');
  if (value.length === 0)
    throw invalid(field, 'is empty, so that no device could match; leave it out for every device');
  if (value.length > most) throw invalid(field, `has ${value.length} entries, more than ${most}`);
  return value.map((inner, index) => text(inner, `${field}[${index}]`));
}

function text(value: unknown, field: string): string {
  if (typeof value !== 'string') throw invalid(field, 'must be text');
  if (value === '' || value.length > MAX_TEXT_LENGTH) {
    throw invalid(field, `has ${value.length} characters; 1 to ${MAX_TEXT_LENGTH} are allowed`);
  }
  // The database has no place for either.
  if (value.includes('\0') || !value.isWellFormed()) throw invalid(field, 'holds NUL or half a surrogate pair');
  return value;
}

function capability(value: unknown, field: string): CapabilityValue | { min: number } {
  if (typeof value === 'string') return text(value, field);
  if (typeof value === 'boolean' || (typeof value === 'number' && Number.isFinite(value))) return value;
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) {
    const { min, ...others } = value as Record<string, unknown>;
    if (typeof min === 'number' && Number.isFinite(min) && Object.keys(others).length === 0) return { min };
  }
  throw invalid(field, 'must be text, a number, true, false or {"min": number}');
}

function invalid(field: string, problem: string): OctomilError {
  const shown = field.slice(0, 200);
  return new OctomilError('invalid_input', `${shown} ${problem}`, { details: { field: shown } });
}
