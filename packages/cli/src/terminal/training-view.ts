import type { Metrics, TrainingEvent } from '@octomil/sdk';
import { decimal } from './output.js';

/** What one site does in the current round. */
export interface SiteView {
  readonly name: string;
  readonly state: string;
  readonly phase: string | undefined;
  /** 0 to 1. */
  readonly doneRatio: number;
  readonly reason: string | undefined;
}

/** What a watcher of a training sees at one moment. */
export interface TrainingView {
  readonly round: number;
  readonly rounds: number;
  readonly kind: string;
  readonly state: string;
  readonly accepted: number;
  readonly needed: number;
  readonly sites: ReadonlyMap<string, SiteView>;
  /** Of the latest checkpoint that was evaluated. */
  readonly overall: Metrics | undefined;
  readonly version: string | undefined;
  /** Set by an event that deserves a line of its own, undefined after every other one. */
  readonly line: string | undefined;
  /** Lines about trouble and drift that were said: what stays as it is from round to round is said once. */
  readonly said: ReadonlySet<string>;
  /** Why the latest round did not count. */
  readonly roundReason: string | undefined;
}

export function emptyView(rounds: number): TrainingView {
  return {
    round: 0,
    rounds,
    kind: 'describe',
    state: 'scheduled',
    accepted: 0,
    needed: 0,
    sites: new Map(),
    overall: undefined,
    version: undefined,
    line: undefined,
    said: new Set(),
    roundReason: undefined,
  };
}

type Data = TrainingEvent['data'];

/** The view after one more event. What an event does not say stays as it was; unknown events change nothing. */
export function foldEvent(view: TrainingView, event: TrainingEvent): TrainingView {
  return FOLDS.get(event.type)?.({ ...view, line: undefined }, event.data) ?? { ...view, line: undefined };
}

const FOLDS: ReadonlyMap<string, (view: TrainingView, data: Data) => TrainingView> = new Map([
  ['round', foldRound],
  ['assignment', foldAssignment],
  ['update', foldUpdate],
  ['evaluation', foldEvaluation],
  ['drift', foldDrift],
  ['version', foldVersion],
  ['session', foldSession],
]);

/** What has changed goes before who is unlike the others, which it was before the training. */
function foldDrift(view: TrainingView, data: Data): TrainingView {
  const changed = driftText('rows have changed at', data['changed']);
  const unlike = driftText("rows are unlike the others' at", data['sites']);
  const lines = [changed, unlike].flatMap((line) => (line === undefined || view.said.has(line) ? [] : [line]));
  return lines.length === 0 ? view : { ...view, line: lines.join('\n'), said: new Set([...view.said, ...lines]) };
}

/** The first text, and at how many sites there are some. */
function driftText(what: string, told: unknown): string | undefined {
  const sites = Object.entries((told ?? {}) as Readonly<Record<string, readonly string[]>>);
  const [[name, [first]] = ['', []]] = sites;
  if (first === undefined) return undefined;
  const more = sites.length - 1;
  const others = more === 0 ? '' : ` (and ${more} more ${more === 1 ? 'site' : 'sites'})`;
  return `${what} ${name}${others}: ${first}`;
}

function saidOnce(view: TrainingView, line: string): TrainingView {
  return view.said.has(line) ? view : { ...view, line, said: new Set([...view.said, line]) };
}

function foldVersion(view: TrainingView, data: Data): TrainingView {
  const version = text(data, 'version');
  return { ...view, version, line: version === undefined ? undefined : `version ${version} is in the registry` };
}

function foldRound(view: TrainingView, data: Data): TrainingView {
  const round = number(data, 'roundNumber') ?? number(data, 'number') ?? view.round;
  const state = text(data, 'state') ?? view.state;
  const kind = text(data, 'kind') ?? view.kind;
  const fresh = round !== view.round || kind !== view.kind || state === 'selecting' || state === 'scheduled';
  const rounds = number(data, 'totalRounds') ?? view.rounds;
  const reason = text(data, 'reason');
  const trouble = ['insufficient_updates', 'failed', 'cancelled'].includes(state);
  const waits = text(data, 'reasonCode') === 'waiting_for_devices' && reason !== undefined;
  const next = {
    ...view,
    round,
    rounds,
    kind,
    state,
    needed: number(data, 'minUpdates') ?? view.needed,
    accepted: fresh ? 0 : view.accepted,
    sites: fresh ? new Map() : view.sites,
    roundReason: trouble ? reason : view.roundReason,
    line: trouble
      ? `${roundName(kind, round, rounds)}: ${reason !== undefined && reason === view.roundReason ? 'the same again' : (reason ?? state)}`
      : undefined,
  };
  return waits ? saidOnce(next, `${roundName(kind, round, rounds)}: waiting, ${reason}`) : next;
}

function foldAssignment(view: TrainingView, data: Data): TrainingView {
  const name = siteName(data);
  if (name === undefined) return view;
  const total = number(data, 'total') ?? 0;
  const completed = number(data, 'completed') ?? 0;
  const state = text(data, 'state') ?? view.sites.get(name)?.state ?? 'open';
  const reason = text(data, 'reason');
  const site: SiteView = {
    name,
    state,
    phase: text(data, 'phase') ?? view.sites.get(name)?.phase,
    doneRatio:
      state === 'done' ? 1 : total > 0 ? Math.min(1, completed / total) : (view.sites.get(name)?.doneRatio ?? 0),
    reason,
  };
  const trouble = ['refused', 'failed', 'expired'].includes(state);
  const next = { ...view, sites: new Map([...view.sites, [name, site]]) };
  return trouble ? saidOnce(next, `${name}: ${state}${reason === undefined ? '' : `, ${reason}`}`) : next;
}

function foldUpdate(view: TrainingView, data: Data): TrainingView {
  const name = siteName(data);
  const state = text(data, 'state') ?? 'accepted';
  const reason = text(data, 'reason');
  if (state === 'rejected')
    return { ...view, line: `${name ?? 'a site'}: update rejected, ${reason ?? 'no reason given'}` };
  if (state !== 'accepted') return view;
  const site = name === undefined ? undefined : view.sites.get(name);
  return {
    ...view,
    accepted: number(data, 'acceptedUpdates') ?? view.accepted + 1,
    sites:
      name === undefined
        ? view.sites
        : new Map([
            ...view.sites,
            [name, { name, phase: 'done', reason: undefined, ...site, state: 'done', doneRatio: 1 } satisfies SiteView],
          ]),
  };
}

/** The round's number is of the checkpoint that was evaluated; 0 is what the training started from. */
function foldEvaluation(view: TrainingView, data: Data): TrainingView {
  const overall = data['overall'] as Metrics | null | undefined;
  if (overall === undefined || overall === null) return view;
  const round = number(data, 'roundNumber') ?? view.round;
  const name = round <= 0 ? 'before training' : roundName('train', round, view.rounds);
  return { ...view, overall, line: `${name}: ${metricsText(overall)}` };
}

function foldSession(view: TrainingView, data: Data): TrainingView {
  const state = text(data, 'state') ?? text(data, 'status');
  const reason = text(data, 'reason');
  const rounds = number(data, 'totalRounds') ?? number(data, 'rounds') ?? view.rounds;
  // A completed session has told of its version already.
  if (state === undefined || state === 'running' || (state === 'completed' && reason === undefined)) {
    return { ...view, rounds };
  }
  const known = reason === undefined || reason === view.roundReason;
  return { ...view, rounds, line: `session ${state}${known ? '' : `: ${reason}`}` };
}

/** `loss 0.412  accuracy 0.812  AUC 0.873  (181 rows)` */
export function metricsText(metrics: Metrics): string {
  const parts = [`loss ${decimal(metrics.loss)}`];
  if (metrics.accuracy !== null) parts.push(`accuracy ${decimal(metrics.accuracy)}`);
  if (metrics.auc !== null) parts.push(`AUC ${decimal(metrics.auc)}`);
  return `${parts.join('  ')}  (${metrics.count} rows)`;
}

export function roundName(kind: string, round: number, rounds: number): string {
  if (kind === 'describe') return 'aligning columns';
  if (kind === 'evaluate' || (rounds > 0 && round > rounds)) return 'evaluating the result';
  return `round ${round}${rounds > 0 ? `/${rounds}` : ''}`;
}

/** Several lines for a terminal, `width` columns wide. */
export function drawView(view: TrainingView, width: number): string {
  const trained =
    view.kind === 'describe' ? 0 : Math.min(view.rounds, view.round - (view.state === 'completed' ? 0 : 1));
  const head = roundName(view.kind, view.round, view.rounds);
  const barWidth = Math.max(10, Math.min(40, width - 40));
  const lines = [`${bar(view.rounds > 0 ? trained / view.rounds : 0, barWidth)} ${head}`];
  const longest = Math.max(0, ...[...view.sites.keys()].map((name) => name.length));
  for (const site of [...view.sites.values()].sort((a, b) => (a.name < b.name ? -1 : 1))) {
    const doing = site.state === 'done' ? 'done' : (site.phase ?? site.state);
    lines.push(`  ${site.name.padEnd(longest)} ${bar(site.doneRatio, 16)} ${doing}`.slice(0, width));
  }
  if (view.overall !== undefined) lines.push(`  ${metricsText(view.overall)}`.slice(0, width));
  return lines.join('\n');
}

function bar(ratio: number, width: number): string {
  const full = Math.round(Math.max(0, Math.min(1, ratio)) * width);
  return `${'█'.repeat(full)}${'░'.repeat(width - full)}`;
}

function siteName(data: Data): string | undefined {
  return text(data, 'device') ?? text(data, 'deviceIdentifier') ?? text(data, 'site') ?? text(data, 'deviceId');
}

function text(data: Data, name: string): string | undefined {
  const value = data[name];
  return typeof value === 'string' && value !== '' ? value : undefined;
}

function number(data: Data, name: string): number | undefined {
  const value = data[name];
  return typeof value === 'number' ? value : undefined;
}
