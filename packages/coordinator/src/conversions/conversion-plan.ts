import { OctomilError } from '@octomil/shared/errors';
import type { ModelFormat } from '@octomil/shared/formats';
import { DOCUMENT_FORMAT, WEIGHTS_FORMAT } from '../models/index.js';
import type { Converter } from './converters.js';

/** How a format is made of a version's files. */
export type ConversionPlan =
  | { readonly kind: 'built-in'; readonly from: string; readonly to: ModelFormat; readonly withDocument: boolean }
  | { readonly kind: 'command'; readonly from: string; readonly converter: Converter };

interface BuiltIn {
  readonly from: string;
  readonly to: ModelFormat;
  readonly withDocument: boolean;
}

const OF_WEIGHTS: readonly BuiltIn[] = [
  { from: WEIGHTS_FORMAT, to: 'onnx', withDocument: true },
  { from: WEIGHTS_FORMAT, to: 'pytorch', withDocument: false },
  { from: WEIGHTS_FORMAT, to: 'npz', withDocument: false },
];
/** Of a file that was made elsewhere; a converter of the operator's, who knows where, goes before these. */
const OF_STATE_DICT: readonly BuiltIn[] = [
  { from: 'pytorch', to: 'safetensors', withDocument: false },
  { from: 'pytorch', to: 'onnx', withDocument: true },
  { from: 'pytorch', to: 'npz', withDocument: false },
];

/**
 * @param have formats of the version's files
 * @throws OctomilError `conversion_failed` naming what can be converted into what
 */
export function planConversion(
  have: ReadonlySet<string>,
  to: string,
  converters: readonly Converter[],
): ConversionPlan {
  const builtIn = (list: readonly BuiltIn[]): ConversionPlan | undefined => {
    const found = list.find(
      (entry) => entry.to === to && have.has(entry.from) && (!entry.withDocument || have.has(DOCUMENT_FORMAT)),
    );
    return found === undefined ? undefined : { kind: 'built-in', ...found };
  };
  const converter = converters.find((entry) => entry.to === to && have.has(entry.from));
  const plan =
    builtIn(OF_WEIGHTS) ??
    (converter === undefined ? undefined : { kind: 'command', from: converter.from, converter }) ??
    builtIn(OF_STATE_DICT);
  if (plan !== undefined) return plan;
  const pairs = [
    ...[...OF_WEIGHTS, ...OF_STATE_DICT].map((entry) => ({
      from: entry.withDocument ? `${entry.from} and ${DOCUMENT_FORMAT}` : entry.from,
      to: entry.to as string,
    })),
    ...converters.map(({ from, to: made }) => ({ from, to: made })),
  ];
  throw new OctomilError(
    'conversion_failed',
    `nothing here makes ${to} of ${[...have].sort().join(' and ') || 'no files'}; what can be made: ${pairs.map((pair) => `${pair.from} → ${pair.to}`).join(', ')}`,
    { details: { format: to, have: [...have].sort(), pairs } },
  );
}
