import { OctomilError } from '@octomil/shared/errors';
import { DATE_SPANS, MINIMUM_ROWS, SEEN_KINDS, type SiteStatistics } from '@octomil/shared/features';
import { Type } from 'typebox';
import { Value } from 'typebox/value';

const Count = Type.Integer({ minimum: 0, maximum: Number.MAX_SAFE_INTEGER });
const Text = Type.String({ maxLength: 1_000 });
const Categories = Type.Array(Type.Object({ value: Text, count: Count }), { maxItems: 1_000 });
const Moments = Type.Object({ count: Count, mean: Type.Number(), deviation: Type.Number({ minimum: 0 }) });
const Seen = Type.Union(SEEN_KINDS.map((kind) => Type.Literal(kind)));
const OrNull = <T extends Type.TSchema>(schema: T) => Type.Union([schema, Type.Null()]);

const Statistics = Type.Object({
  formatVersion: Type.Literal(1),
  rows: Count,
  columns: Type.Array(
    Type.Object({
      name: Text,
      seen: Seen,
      count: Count,
      missing: Count,
      zeros: Count,
      moments: OrNull(Moments),
      levels: OrNull(Count),
      categories: Categories,
      other: Count,
      unit: Type.Optional(Text),
      codes: Type.Optional(Type.Literal(true)),
      image: Type.Optional(
        Type.Object({
          height: Type.Integer({ minimum: 1, maximum: 4_096 }),
          width: Type.Integer({ minimum: 1, maximum: 4_096 }),
          channels: Type.Integer({ minimum: 1, maximum: 4 }),
          moments: Type.Array(Moments, { minItems: 1, maxItems: 4 }),
        }),
      ),
      derived: Type.Optional(
        Type.Array(
          Type.Object({
            part: Type.Union(['value' as const, ...DATE_SPANS].map((part) => Type.Literal(part))),
            moments: Moments,
          }),
          { maxItems: 10 },
        ),
      ),
    }),
    { maxItems: 10_000 },
  ),
  excluded: Type.Array(Type.Object({ name: Text, reason: Text }), { maxItems: 10_000 }),
  target: OrNull(
    Type.Object({
      column: Text,
      seen: Seen,
      count: Count,
      missing: Count,
      classes: OrNull(Categories),
      other: Count,
      moments: OrNull(Moments),
    }),
  ),
});

const Figures = Type.Object({
  count: Type.Integer({ minimum: MINIMUM_ROWS, maximum: Number.MAX_SAFE_INTEGER }),
  loss: Type.Number(),
  accuracy: OrNull(Type.Number({ minimum: 0, maximum: 1 })),
  auc: OrNull(Type.Number({ minimum: 0, maximum: 1 })),
});

/** What a site answered to `describe`. @throws `invalid_input` where it is no `SiteStatistics` of format version 1 */
export function readStatistics(report: unknown): SiteStatistics {
  return read(Statistics, report, 'site statistics') as SiteStatistics;
}

/** What a site answered to `evaluate`; null when it has too few rows to speak of. @throws `invalid_input` */
export function readFigures(report: unknown): Record<string, unknown> | null {
  return report === null ? null : (read(Figures, report, 'evaluation metrics') as Record<string, unknown>);
}

function read(schema: Type.TSchema, report: unknown, what: string): unknown {
  if (Value.Check(schema, report)) return report;
  const [first] = Value.Errors(schema, report);
  throw new OctomilError(
    'invalid_input',
    `the report is not ${what}: ${first?.instancePath === '' ? 'it' : first?.instancePath} ${first?.message ?? ''}`,
  );
}
