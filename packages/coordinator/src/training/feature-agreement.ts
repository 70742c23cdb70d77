import { OctomilError } from '@octomil/shared/errors';
import {
  columnCoverage,
  encodedWidth,
  type FeatureSpec,
  MINIMUM_ROWS,
  mergeStatistics,
  parseTargetRule,
  type SiteEntry,
  type SiteStatistics,
} from '@octomil/shared/features';
import type { Architecture } from '@octomil/shared/models';
import type { JsonObject } from '../database/tables.js';
import { FRESH_WEIGHTS } from './fresh-weights.js';
import { readStatistics } from './reports.js';
import type { AcceptedAnswer } from './round-store.js';
import type { SessionConfig } from './session-config.js';

/** What the sites agreed on: how rows are encoded, and the model that fits. */
export interface FeatureAgreement {
  readonly spec: FeatureSpec;
  /** With its output fitted to the target. */
  readonly architecture: Architecture;
  readonly inputWidth: number;
  readonly warnings: readonly string[];
}

export type AgreementRequest = Pick<
  SessionConfig,
  'architecture' | 'output' | 'target' | 'missingMarkers' | 'exclude' | 'hints' | 'inputWidth'
>;

/** In the order given, which must be the devices'. @throws `invalid_input` for a report that is none */
export function describedSites(answers: readonly AcceptedAnswer[]): SiteEntry[] {
  return answers.map(({ deviceId, deviceName, metrics }) => ({
    deviceId,
    name: deviceName,
    statistics: readStatistics(metrics['report']),
  }));
}

/**
 * A site that cannot take part whatever the others have: it fails by itself, and the others go on where they are enough.
 *
 * @throws `data_mismatch`
 */
export function requireUsable({ target, columns }: SiteStatistics, rule: string | null): void {
  const names = columns.slice(0, 20).map(({ name }) => name);
  const others = columns.length > 20 ? ', …' : '';
  if (target === null && rule !== null) {
    throw new OctomilError(
      'data_mismatch',
      `its data has no target column "${parseTargetRule(rule).column}" with at least ${MINIMUM_ROWS} values; it has ${names.join(', ') || 'no usable column'}${others}`,
    );
  }
  if (columns.length === 0) {
    throw new OctomilError(
      'data_mismatch',
      `its data has no usable column: a column needs at least ${MINIMUM_ROWS} values, and must be neither identifier, free text nor date; pictures need an architecture with their size`,
    );
  }
}

/**
 * Merges what the sites reported into one feature spec.
 *
 * @param hasBase the session starts from weights whose input width cannot change
 * @throws `data_mismatch` naming the site without target or usable column, or the widths that do not fit
 */
export function agreeOnFeatures(
  request: AgreementRequest,
  sites: readonly SiteEntry[],
  hasBase: boolean,
): FeatureAgreement {
  const { architecture, target } = request;
  if (architecture === null || target === null) {
    throw new OctomilError('internal', 'the session describes columns without an architecture or target');
  }
  const warnings: string[] = [];
  const spec = mergeStatistics(sites, {
    target: parseTargetRule(target),
    ...(request.output === null ? {} : { output: request.output }),
    missingMarkers: request.missingMarkers,
    exclude: request.exclude,
    ...(request.hints === undefined ? {} : { hints: request.hints }),
    layout: layoutFor(architecture),
    onWarning: (warning) => warnings.push(warning),
  });
  const inputWidth = encodedWidth(spec);
  if (hasBase && inputWidth !== request.inputWidth) {
    throw new OctomilError(
      'data_mismatch',
      `the base version takes rows of ${request.inputWidth} numbers, but the sites' columns give ${inputWidth}; ${FRESH_WEIGHTS}`,
    );
  }
  return { spec, architecture: fitOutput(architecture, spec), inputWidth, warnings };
}

/**
 * What a dry run shows: coverage of the columns, or why the sites cannot agree.
 *
 * @param confirmed the spec that is used whatever the sites tell
 */
export function dryRunReport(
  request: AgreementRequest,
  sites: readonly SiteEntry[],
  confirmed?: FeatureSpec,
): JsonObject {
  if (sites.length === 0) return { columns: [], warnings: [], feature_spec: null, input_width: null, problem: null };
  try {
    const { spec, inputWidth, warnings } =
      confirmed === undefined
        ? agreeOnFeatures(request, sites, false)
        : { spec: confirmed, inputWidth: encodedWidth(confirmed), warnings: [] };
    const columns = columnCoverage(sites, spec).map((column) => ({
      column: column.name,
      kind: column.kind,
      // Share of rows that have a value; null where the column is not there.
      sites: Object.fromEntries(
        column.sites.map(({ name, present, missingRatio }) => [name, present ? 1 - missingRatio : null]),
      ),
    }));
    return { columns, warnings, feature_spec: spec, input_width: inputWidth, problem: null };
  } catch (error) {
    if (!(error instanceof OctomilError)) throw error;
    return { columns: [], warnings: [], feature_spec: null, input_width: null, problem: error.toBody() };
  }
}

/** Images keep their pixels in order; all else is a table. */
function layoutFor(architecture: Architecture): 'table' | 'grid' {
  if (architecture.name === 'cnn') return 'grid';
  if (architecture.name !== 'layers') return 'table';
  const shape = /"batch_?input_?shape":\[[^\]]*\]/i.exec(JSON.stringify(architecture.topology))?.[0] ?? '';
  return shape.split(',').length > 2 ? 'grid' : 'table';
}

/** The output follows from the target; a topology of the user's own must fit it already. @throws `data_mismatch` */
export function fitOutput(architecture: Architecture, spec: FeatureSpec): Architecture {
  const { output } = spec.target;
  if (architecture.name !== 'layers') return { ...architecture, output };
  if (JSON.stringify(architecture.output) === JSON.stringify(output)) return architecture;
  throw new OctomilError(
    'data_mismatch',
    `the model's output is ${JSON.stringify(architecture.output)}, but the target asks for ${JSON.stringify(output)}`,
  );
}
