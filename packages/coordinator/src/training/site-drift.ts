import type { JsonObject } from '../database/tables.js';
import type { RoundRow } from './session-store.js';

/** How far a site's rows are from what the spec was made of, as it told with its update. */
export interface DriftReport {
  /** By column, as the site's measures are named; those of which it has something to say. */
  readonly columns: readonly Readonly<Record<string, string | number>>[];
  /** For people; empty where nothing stands out. */
  readonly warnings: readonly string[];
}

const MAX_COLUMNS = 200;
const MAX_MEASURES = 12;
const MAX_MEASURE_NAME = 60;
const MAX_WARNINGS = 50;
const MAX_TEXT = 500;

/** What a site may say of its drift; null where it says none. Bounded: it is kept with every round. */
export function readDrift(value: unknown): DriftReport | null {
  if (!isObject(value)) return null;
  const { columns, warnings } = value;
  const entries = Array.isArray(columns)
    ? columns
    : Object.entries(isObject(columns) ? columns : {}).map(([name, measures]) =>
        isObject(measures) ? { name, ...measures } : measures,
      );
  return {
    columns: entries
      .slice(0, MAX_COLUMNS)
      .map(readColumn)
      .filter((column) => column !== null),
    warnings: Array.isArray(warnings)
      ? warnings
          .filter((warning) => typeof warning === 'string')
          .slice(0, MAX_WARNINGS)
          .map(cut)
      : [],
  };
}

function readColumn(column: unknown): Readonly<Record<string, string | number>> | null {
  if (!isObject(column)) return null;
  const { name } = column;
  if (typeof name !== 'string') return null;
  const measures = Object.entries(column).filter(
    (entry): entry is [string, number] =>
      entry[0].length <= MAX_MEASURE_NAME && typeof entry[1] === 'number' && Number.isFinite(entry[1]),
  );
  return { name: cut(name), ...Object.fromEntries(measures.slice(0, MAX_MEASURES)) };
}

/** Cutting may halve a surrogate pair, which no JSON column takes. */
function cut(text: string): string {
  return text.slice(0, MAX_TEXT).toWellFormed();
}

/** The drift of each train round that counted, oldest first. */
export function driftRounds(rounds: readonly RoundRow[]): JsonObject[] {
  return rounds
    .filter(({ kind, state }) => kind === 'train' && state === 'completed')
    .map((round) => {
      const sites = (round.metrics['drift'] ?? {}) as Readonly<Record<string, DriftReport>>;
      const drifted = Object.values(sites).filter(({ warnings }) => warnings.length > 0).length;
      return {
        round_id: round.id,
        round_number: round.number,
        reporting_sites: Object.keys(sites).length,
        drifted_sites: drifted,
        sites,
      };
    });
}

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
