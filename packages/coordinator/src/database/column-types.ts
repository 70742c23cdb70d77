import type { ColumnType, JSONColumnType } from 'kysely';

/** What is read, and what may be written: drivers take text for times and JSON. */
export type Timestamp = ColumnType<Date, Date | string | undefined, Date | string>;
export type NullableTimestamp = ColumnType<Date | null, Date | string | null | undefined, Date | string | null>;
export type Json<T extends object> = JSONColumnType<T, string, string>;
export type NullableJson<T extends object> = ColumnType<T | null, string | null | undefined, string | null>;

export type JsonObject = Record<string, unknown>;
