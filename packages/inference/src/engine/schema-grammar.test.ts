import { expect, test } from '@jest/globals';
import { Ajv2020 } from 'ajv/dist/2020.js';
import fc from 'fast-check';
import { checkFormat } from './answer-check.js';
import { schemaToGrammar } from './schema-grammar.js';
import { sentenceOf } from './testing/grammar-sentences.js';

const ajv = new Ajv2020({ strict: false, validateFormats: false });

const schemas: readonly Record<string, unknown>[] = [
  {
    type: 'object',
    properties: { name: { type: 'string' }, age: { type: 'integer', minimum: 0, maximum: 130 } },
    required: ['name', 'age'],
    additionalProperties: false,
  },
  {
    type: 'object',
    properties: { a: { type: 'number' }, b: { type: 'boolean' }, c: { type: 'null' } },
    required: ['b'],
  },
  { type: 'object', properties: { a: { type: 'string' }, b: { type: 'string' } } },
  { type: 'array', items: { type: 'integer', minimum: -7, maximum: 1203 }, minItems: 2, maxItems: 4 },
  { type: 'array', items: { enum: ['x', 1, null, 'a "quoted" \\ name'] } },
  { type: 'array', prefixItems: [{ type: 'string' }, { type: 'boolean' }], items: false },
  {
    anyOf: [
      { type: 'string', minLength: 1, maxLength: 3 },
      { type: 'object', properties: { t: { const: 'b' } }, required: ['t'] },
    ],
  },
  {
    oneOf: [
      { type: 'object', properties: { t: { const: 'a' } }, required: ['t'] },
      { type: 'object', properties: { t: { const: 'b' } }, required: ['t'] },
    ],
  },
  {
    $ref: '#/$defs/tree',
    $defs: {
      tree: {
        type: 'object',
        properties: { v: { type: 'integer' }, kids: { type: 'array', items: { $ref: '#/$defs/tree' }, maxItems: 2 } },
        required: ['v', 'kids'],
      },
    },
  },
  // It ends although it refers to itself: by the other type, by leaving out, by the other alternative.
  { type: ['object', 'null'], properties: { next: { $ref: '#' } }, required: ['next'] },
  { type: 'object', properties: { next: { $ref: '#' } } },
  { anyOf: [{ type: 'integer' }, { type: 'array', items: { $ref: '#' }, minItems: 1, maxItems: 2 }] },
  { type: ['string', 'null'] },
  { type: 'object', additionalProperties: { type: 'integer' } },
  { type: 'object' },
  { title: 'anything' },
  {
    type: 'object',
    properties: { d: { type: 'string', format: 'date' }, u: { type: 'string', format: 'uuid' } },
    required: ['d', 'u'],
    $schema: 'https://json-schema.org/draft/2020-12/schema',
  },
];

test.each(schemas.map((schema) => [JSON.stringify(schema).slice(0, 90), schema] as const))(
  'every sentence of the grammar is accepted by %s',
  (_name, schema) => {
    const grammar = schemaToGrammar(schema);
    const validate = ajv.compile(schema);
    fc.assert(
      fc.property(fc.infiniteStream(fc.nat(1_000_000)), (choices) => {
        const text = sentenceOf(grammar, choices);
        const accepted = validate(JSON.parse(text));
        expect({ text, accepted }).toEqual({ text, accepted: true });
      }),
      { numRuns: 100 },
    );
  },
);

test('an integer between any bounds is within them, and both bounds can be said', () => {
  const bound = fc.integer({ min: -100_000, max: 100_000 });
  fc.assert(
    fc.property(bound, bound, fc.infiniteStream(fc.nat(1_000_000)), (a, b, choices) => {
      const [minimum, maximum] = [Math.min(a, b), Math.max(a, b)];
      const value = Number(sentenceOf(schemaToGrammar({ type: 'integer', minimum, maximum }), choices));
      expect(value).toBeGreaterThanOrEqual(minimum);
      expect(value).toBeLessThanOrEqual(maximum);
    }),
  );
  const grammar = schemaToGrammar({ type: 'integer', minimum: -2, maximum: 11 });
  const said = new Set<number>();
  for (let start = 0; start < 4 * 12 * 12; start++) {
    const digits = [start % 4, Math.floor(start / 4) % 12, Math.floor(start / 48)];
    let index = 0;
    said.add(Number(sentenceOf(grammar, { next: () => ({ value: digits[index++ % 3] ?? 0, done: false }) })));
  }
  expect([...said].sort((a, b) => a - b)).toEqual([-2, -1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
});

test.each([
  [{ type: 'string', pattern: '^a' }, '#/pattern'],
  [{ type: 'number', minimum: 1 }, '#/minimum'],
  [{ type: 'integer', multipleOf: 3 }, '#/multipleOf'],
  [{ type: 'array', uniqueItems: true }, '#/uniqueItems'],
  [{ type: 'object', properties: { a: { not: {} } } }, '#/properties/a/not'],
  [{ type: 'object', required: ['x'] }, '#/required'],
  [{ type: 'string', format: 'email' }, '#/format'],
  [{ $ref: 'https://example.com/schema' }, '#/$ref'],
  [{ $ref: '#/$defs/none' }, '#/$ref'],
  [{ oneOf: [{ type: 'integer' }, { type: 'number' }] }, '#/oneOf'],
  [{ oneOf: [{ type: 'object' }, { type: 'object' }] }, '#/oneOf'],
  [{ oneOf: [{ type: 'object', required: ['a'], properties: { a: true } }, { type: 'object' }] }, '#/oneOf'],
  [{ oneOf: [{ type: 'object', required: ['t'], properties: { t: { const: 1 } } }, { type: 'object' }] }, '#/oneOf'],
  [{ oneOf: [{ const: 5 }, { type: 'integer' }] }, '#/oneOf'],
  [{ oneOf: [{ $ref: '#/$defs/a' }, { type: 'null' }], $defs: { a: { $ref: '#/$defs/a' } } }, '#/oneOf'],
  [{ type: 'object', required: ['a'], properties: { a: { $ref: '#' } } }, '#'],
  [{ type: 'array', minItems: 1, items: { $ref: '#' } }, '#'],
  [{ $ref: '#/$defs/a', $defs: { a: { anyOf: [{ $ref: '#/$defs/b' }] }, b: { $ref: '#/$defs/a' } } }, '#/$defs/a'],
  [{ anyOf: [{ $ref: '#' }, { type: 'null' }] }, '#'],
  [{ type: 'string', format: 'constructor' }, '#/format'],
  [{ allOf: [{ type: 'object' }, { type: 'object' }] }, '#/allOf'],
  [{ type: 'tuple' }, '#/type'],
  [{ enum: [] }, '#/enum'],
  [{ type: 'array', minItems: 3, maxItems: 1 }, '#/maxItems'],
  [{ type: 'integer', minimum: 5, maximum: 4 }, '#'],
])('%j is refused, with the place', (schema, at) => {
  expect(() => schemaToGrammar(schema)).toThrow(
    expect.objectContaining({ code: 'invalid_input', details: { field: 'response_format', at } }),
  );
});

test('a schema that is too deep is refused', () => {
  let deep: Record<string, unknown> = { type: 'string' };
  for (let level = 0; level < 100; level++) deep = { type: 'array', items: deep };
  expect(() => schemaToGrammar(deep)).toThrow(expect.objectContaining({ code: 'invalid_input' }));
});

test.each([
  ['too long', { enum: Array.from({ length: 50_000 }, (_, index) => `value ${index}`) }],
  [
    'too much to be written out',
    {
      type: 'object',
      properties: Object.fromEntries(Array.from({ length: 600 }, (_, i) => [i, { maxLength: 2_000 }])),
    },
  ],
  ['deeper than the stack', JSON.parse(`${'{"items":'.repeat(50_000)}{}${'}'.repeat(50_000)}`) as object],
])('a schema that is %s is refused before anything is made of it', (_name, schema) => {
  const format = { type: 'json_schema', name: 'a', schema: schema as Record<string, unknown> } as const;
  expect(() => checkFormat(format)).toThrow(expect.objectContaining({ code: 'invalid_input' }));
});
