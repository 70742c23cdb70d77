import { readFile } from 'node:fs/promises';
import type { FeatureHints, FeatureProposal, ProposeOptions } from '@octomil/sdk';
import { OctomilError } from '@octomil/shared/errors';
import { parse } from 'yaml';
import { connect } from '../access/connect.js';
import type { Options } from '../program.js';
import { driftText, proposalsTable, proposalText } from '../terminal/features-view.js';
import { print } from '../terminal/output.js';
import { quoted } from '../terminal/quoted.js';
import { requirePlaceFor, writeAtomically } from '../terminal/write-file.js';

/** Asks the sites and shows what their columns would become. */
export async function propose(options: Options): Promise<void> {
  const { model, federation, target, hints, missing, exclude, dataSet, architecture, label } = options;
  const request = Object.fromEntries(
    Object.entries({
      model,
      federation,
      target,
      hints: hints === undefined ? undefined : await readHints(String(hints)),
      missingMarkers: missing,
      exclude,
      dataSet,
      architecture,
      selector: label,
    }).filter(([, value]) => value !== undefined),
  ) as unknown as ProposeOptions;
  if (options['out'] !== undefined) await requirePlaceFor(String(options['out']));
  const client = await connect();
  // As `train` does: one that nobody would take part in is not made, and an id names one that there is.
  const proposal = await client.features.propose({ ...request, createFederation: !UUID.test(String(federation)) });
  await shown(options, proposal);
}

const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i;

export async function show(options: Options, id: string): Promise<void> {
  await shown(options, await (await connect()).features.get(id));
}

export async function list(options: Options): Promise<void> {
  const { model, federation, target, state, json } = options;
  const filter = Object.fromEntries(
    Object.entries({ model, federation, target, state }).filter(([, value]) => value !== undefined),
  );
  const rows = await (await connect()).features.list(filter);
  await print(json, rows, () => proposalsTable(rows));
}

export async function confirm({ json }: Options, which: string): Promise<void> {
  const client = await connect();
  const confirmed = await client.features.confirm(/[./\\]/.test(which) ? await readProposalFile(which) : which);
  await print(
    json,
    confirmed,
    () =>
      `Proposal ${confirmed.id} is confirmed${confirmed.edited ? ', as edited' : ''}: ${confirmed.columnCount} columns, spec ${confirmed.specHash.slice(0, 12)}.\n` +
      `Train with it: octomil train --federation ${quoted(confirmed.federation)} --model ${quoted(confirmed.model)} --features confirmed${confirmed.baseVersion === 'initial' ? ' --base-version initial\nIts newest version learned rows encoded otherwise, so that training starts from fresh weights.' : ''}`,
  );
}

export async function reject({ json, reason }: Options, id: string): Promise<void> {
  const client = await connect();
  const rejected = await client.features.reject(id, reason === undefined ? {} : { reason: String(reason) });
  await print(json, rejected, () => `Proposal ${rejected.id} is rejected.`);
}

export async function drift({ json }: Options, session: string): Promise<void> {
  const report = await (await connect()).features.drift(session);
  await print(json, report, () => driftText(report));
}

async function shown({ json, out }: Options, proposal: FeatureProposal): Promise<void> {
  if (out !== undefined) await writeAtomically(String(out), `${JSON.stringify(proposal, null, 2)}\n`);
  await print(json, proposal, () => proposalText(proposal, out === undefined ? undefined : String(out)));
}

/** @throws OctomilError `invalid_input` for a file that is not the JSON that `--out` wrote */
async function readProposalFile(path: string): Promise<{ id: string; spec: Readonly<Record<string, unknown>> }> {
  const text = await readText(path);
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause);
    throw new OctomilError('invalid_input', `${path} is not JSON: ${why}`, { cause });
  }
  const { id, spec } = (value ?? {}) as { id?: unknown; spec?: unknown };
  if (typeof id !== 'string' || typeof spec !== 'object' || spec === null) {
    throw new OctomilError(
      'invalid_input',
      `${path} has no id and spec; edit the file that "octomil features propose --out FILE" writes`,
    );
  }
  return { id, spec: spec as Readonly<Record<string, unknown>> };
}

/** @throws OctomilError `invalid_input` */
export async function readHints(path: string): Promise<FeatureHints> {
  const text = await readText(path);
  let value: unknown;
  try {
    value = parse(text);
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause);
    throw new OctomilError('invalid_input', `${path} is neither YAML nor JSON: ${why}`, { cause });
  }
  const inner = isMapping(value) && isMapping(value['hints']) ? value['hints'] : value;
  const wrong = isMapping(inner) ? Object.entries(inner).find(([, hint]) => !isMapping(hint)) : undefined;
  if (!isMapping(inner) || wrong !== undefined) {
    const what = wrong === undefined ? 'is no mapping of columns' : `says ${JSON.stringify(wrong[1])} of "${wrong[0]}"`;
    throw new OctomilError(
      'invalid_input',
      `${path} ${what}; write for each column what you wish, such as "chol: {unit: mg/dL}"`,
    );
  }
  return inner as FeatureHints;
}

async function readText(path: string): Promise<string> {
  try {
    return await readFile(path, 'utf8');
  } catch (cause) {
    throw new OctomilError('invalid_input', `${path} cannot be read; check the path`, { cause });
  }
}

function isMapping(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
