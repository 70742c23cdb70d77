import { randomUUID } from 'node:crypto';
import { afterEach, beforeEach, expect, jest, test } from '@jest/globals';
import { type ColumnStatistics, mergeStatistics, parseTargetRule, type SiteStatistics } from '@octomil/shared/features';
import type { JsonObject } from '../database/tables.js';
import { describeOnDatabases } from '../testing/databases.js';
import type { TrainingEngine } from '../training/index.js';
import { assignmentOf, type Fixture, keyOf, openFixture, until } from '../training/testing/training-fixture.js';
import { confirmedSpec } from './confirm-spec.js';
import { describeColumns, describeLeftOut } from './describe-columns.js';
import { memberProposalJson, proposalJson } from './proposal-json.js';
import { ProposalService } from './proposal-service.js';
import { type Proposal, ProposalStore } from './proposal-store.js';

const numeric = (name: string, mean: number): ColumnStatistics => ({
  name,
  seen: 'numeric',
  count: 100,
  missing: 0,
  zeros: 0,
  moments: { count: 100, mean, deviation: 2 },
  levels: null,
  categories: [],
  other: 0,
});
const codes = (name: string, values: readonly string[]): ColumnStatistics => ({
  ...numeric(name, 1),
  seen: 'integer',
  levels: values.length,
  categories: values.map((value) => ({ value, count: 100 / values.length })),
});
const texts = (name: string): ColumnStatistics => ({
  ...numeric(name, 0),
  seen: 'text',
  moments: null,
  levels: 2,
  categories: [
    { value: 'low', count: 50 },
    { value: 'high', count: 50 },
  ],
});

const STATISTICS: SiteStatistics = {
  formatVersion: 1,
  rows: 100,
  columns: [numeric('age', 50), numeric('chol', 200), codes('cp', ['1', '2', '3', '4']), texts('risk')],
  excluded: [{ name: 'mrn', reason: 'identifier' }],
  target: {
    column: 'num',
    seen: 'integer',
    count: 100,
    missing: 0,
    classes: [
      { value: '0', count: 50 },
      { value: '1', count: 50 },
    ],
    other: 0,
    moments: null,
  },
};

jest.setTimeout(60_000);

describeOnDatabases('Feature proposals', (open) => {
  let on: Fixture;
  let engine: TrainingEngine;
  let proposals: ProposalService;
  let asker: { organizationId: string; name: string };
  let a: string;
  let b: string;
  beforeEach(async () => {
    on = await openFixture(open);
    engine = await on.engine();
    proposals = new ProposalService({ store: new ProposalStore(on.database), engine });
    asker = { organizationId: on.organizationId, name: 'ada' };
    a = await on.device('a');
    b = await on.device('b');
  }, 180_000);
  afterEach(() => on.close());

  const REQUEST = { model: 'heart', target: 'num > 0' };

  async function tell(device: string, statistics: SiteStatistics): Promise<void> {
    await until(async () => (await engine.assignments.openAssignments(device))[0]?.kind === 'describe');
    await engine.assignments.report(device, keyOf(await assignmentOf(engine, device)), statistics);
  }

  async function propose(request: object = {}, ofB: SiteStatistics = STATISTICS): Promise<Proposal> {
    const made = proposals.propose({ ...REQUEST, ...request }, asker, new AbortController().signal);
    const [proposal] = await Promise.all([made, tell(a, STATISTICS).then(() => tell(b, ofB))]);
    return proposal;
  }

  const columnsOf = (proposal: Proposal) => proposal.spec.columns as unknown as JsonObject[];

  test('what sites tell becomes a proposal that says of each column what it is, where, and why', async () => {
    const proposal = await propose(
      {},
      { ...STATISTICS, columns: STATISTICS.columns.filter(({ name }) => name !== 'chol') },
    );
    const view = proposalJson(proposal);
    expect(view).toMatchObject({
      state: 'proposed',
      target: 'num>0',
      model: 'heart',
      edited: false,
      created_by: 'ada',
    });
    expect(view['columns']).toMatchObject([
      {
        name: 'age',
        kind: 'numeric',
        inputs: 1,
        range: [46, 54],
        missing: { a: 0, b: 0 },
        why: 'numbers at 2 sites',
      },
      { name: 'chol', kind: 'numeric', inputs: 2, missing: { a: 0, b: null }, missing_ratio: 0.5 },
      { name: 'cp', kind: 'categorical', levels: ['1', '2', '3', '4'], why: expect.stringContaining('codes') },
      { name: 'risk', kind: 'categorical', levels: ['high', 'low'] },
    ]);
    expect(view['excluded']).toEqual([
      { name: 'mrn', reason: 'identifier', why: 'it identifies people or rows', sites: ['a', 'b'] },
    ]);
    // Nothing but the description has happened.
    expect(await on.state(proposal.sessionId)).toMatchObject({ state: 'completed' });
    const members = JSON.stringify(memberProposalJson(proposal));
    expect(members).toContain('"age"');
    for (const told of ['"a"', '"b"', '"ada"']) expect(members).not.toContain(told);
  });

  test('a confirmed spec is trained by without another question, and one that is confirmed later supersedes it', async () => {
    const first = await propose();
    const session = { model: 'heart', target: 'num>0', trainer: 'tfjs', rounds: 1, architecture: 'mlp' };
    const begin = (body: object) => on.session(engine, { ...session, input_width: null, ...body });
    await expect(begin({ feature_spec: 'confirmed' })).rejects.toMatchObject({
      code: 'wrong_state',
      message: expect.stringContaining("octomil features propose --model heart --federation default --target 'num>0'"),
    });
    await expect(begin({ feature_spec: first.id })).rejects.toMatchObject({
      code: 'wrong_state',
      message: expect.stringContaining('is proposed'),
    });
    const kept = columnsOf(first).filter(({ name }) => name !== 'chol');
    const confirmed = await proposals.confirm(first.id, { ...first.spec, columns: kept }, asker);
    expect(confirmed).toMatchObject({ state: 'confirmed', confirmedBy: 'ada', proposedHash: first.spec.hash });
    expect(confirmed.spec.hash).not.toBe(first.spec.hash);
    const id = await begin({ feature_spec: 'confirmed' });
    const assignment = await assignmentOf(engine, a);
    expect(assignment.kind).toBe('train');
    expect(JSON.parse(assignment.taskJson)).toMatchObject({
      featureSpec: { hash: confirmed.spec.hash },
      architecture: { name: 'mlp', output: { kind: 'binary' } },
    });
    await engine.sessions.cancel(on.organizationId, id);

    // The sites hold what they described before: nobody is asked again.
    const second = await proposals.propose(REQUEST, asker, new AbortController().signal);
    await proposals.confirm(second.id, undefined, asker);
    const states = await proposals.store.list({ organizationId: on.organizationId });
    expect(states.map(({ id: found, state }) => [found, state])).toEqual([
      [second.id, 'confirmed'],
      [first.id, 'superseded'],
    ]);
    // A list has the same lines as each by itself, and loads nothing that grows with sites and columns.
    const { spec, request, sites, warnings, createdBy, confirmedBy, endedBy, reason, ...line } =
      await proposals.store.get(on.organizationId, second.id);
    expect(states[0]).toEqual(line);
    expect(line).toMatchObject({ specHash: spec.hash, columnCount: spec.columns.length });
    await expect(begin({ feature_spec: first.id })).rejects.toMatchObject({ code: 'wrong_state' });
    // Who read it before it was confirmed comes too late with an edit, also once it is superseded.
    await expect(proposals.store.confirm(first, second.spec, 'eve')).rejects.toMatchObject({ code: 'wrong_state' });
    await expect(proposals.confirm(second.id, { ...second.spec, columns: kept }, asker)).rejects.toMatchObject({
      code: 'wrong_state',
      message: expect.stringContaining('propose again'),
    });
    // Whatever names are in it, which a person may have edited.
    const odd = { columns: [{ name: 'a\u0000\ud83d\\u00zz"' }, {}, {}] };
    const document = JSON.stringify(odd);
    await on.database.kysely.updateTable('feature_proposals').set({ document }).where('id', '=', second.id).execute();
    expect((await proposals.store.list({ organizationId: on.organizationId }))[0]?.columnCount).toBe(3);
    await on.database.kysely
      .updateTable('feature_proposals')
      .set({ document: JSON.stringify(second.spec) })
      .where('id', '=', second.id)
      .execute();
    // What was confirmed before may be confirmed again as it was, and what is confirmed taken back.
    await expect(
      proposals.confirm(first.id, { ...first.spec, columns: columnsOf(first).slice(0, 2) }, asker),
    ).rejects.toMatchObject({ code: 'wrong_state', message: expect.stringContaining('is superseded') });
    await proposals.confirm(first.id, undefined, asker);
    const third = await proposals.propose(REQUEST, asker, new AbortController().signal);
    await Promise.allSettled([second.id, third.id].map((id) => proposals.confirm(id, undefined, asker)));
    const organizationId = on.organizationId;
    expect(await proposals.store.list({ organizationId, state: 'confirmed' })).toHaveLength(1);
    await proposals.confirm(first.id, undefined, asker);
    await proposals.reject(first.id, 'wrong units', asker);
    await expect(begin({ feature_spec: 'confirmed' })).rejects.toMatchObject({ code: 'wrong_state' });
    await expect(proposals.confirm(first.id, undefined, asker)).rejects.toMatchObject({
      code: 'wrong_state',
      message: expect.stringContaining('is rejected'),
    });
  });

  test('edits that the sites contradict are refused by column, and a kind that may be changed follows from what they told', async () => {
    const proposal = await propose();
    const edit = (name: string, change: JsonObject) => ({
      ...proposal.spec,
      columns: columnsOf(proposal).map((column) => (column['name'] === name ? { ...column, ...change } : column)),
    });
    const refused = async (edited: unknown, ...words: string[]) => {
      const error = (await proposals.confirm(proposal.id, edited, asker).catch((thrown: unknown) => thrown)) as Error;
      expect(error).toMatchObject({ code: 'invalid_input' });
      for (const word of words) expect(error.message).toContain(word);
    };
    await refused(edit('risk', { kind: 'numeric' }), '"risk"');
    await refused(edit('risk', { kind: 'boolean' }), '"risk"');
    await refused(edit('age', { deviation: -1 }), '"age"');
    await refused(edit('age', { kind: 'colour' }), '"age"', 'colour');
    await refused(edit('age', { mean: 'fifty' }), '"age"');
    await refused(edit('risk', { levels: ['green', 'red'] }), '"risk"', 'green', 'low');
    await refused(edit('age', { name: 'agee' }), '"agee"', 'in no data');
    await refused({ ...proposal.spec, columns: [] }, 'no columns');
    await refused({ ...proposal.spec, columns: [null] }, 'column 1');
    await refused({}, 'columns');
    await refused({ ...proposal.spec, target: { ...proposal.spec.target, classes: ['x'] } }, 'target');
    await refused({ ...proposal.spec, columns: [...columnsOf(proposal), columnsOf(proposal)[0]] }, '"age" twice');
    expect((await proposals.store.get(on.organizationId, proposal.id)).state).toBe('proposed');

    const changed = columnsOf(proposal).map((column): JsonObject => {
      if (column['name'] === 'age') return { ...column, aliases: ['alter'] };
      if (column['name'] === 'cp') return { name: 'cp', kind: 'numeric' };
      if (column['name'] === 'risk') return { ...column, kind: 'ordinal', levels: ['low', 'high'] };
      return column;
    });
    const { spec } = await proposals.confirm(proposal.id, { ...proposal.spec, columns: changed }, asker);
    expect(spec.columns).toMatchObject([
      { name: 'age', kind: 'numeric', aliases: ['alter'] },
      { name: 'chol' },
      { name: 'cp', kind: 'numeric', mean: 1, deviation: 2 },
      { name: 'risk', kind: 'ordinal', levels: ['low', 'high'], mean: 0.5, deviation: 0.5 },
    ]);
  });

  test('hints reach the sites and the merge; another organization cannot confirm, and does not learn of it', async () => {
    const made = proposals.propose(
      { ...REQUEST, hints: { chol: { exclude: true } } },
      asker,
      new AbortController().signal,
    );
    await until(async () => (await engine.assignments.openAssignments(a)).length > 0);
    expect(JSON.parse((await assignmentOf(engine, a)).taskJson)).toMatchObject({
      hints: { chol: { exclude: true } },
    });
    await tell(a, STATISTICS);
    await tell(b, STATISTICS);
    const proposal = await made;
    const stranger = { organizationId: randomUUID(), name: 'eve' };
    await expect(proposals.confirm(proposal.id, undefined, stranger)).rejects.toMatchObject({ code: 'not_found' });
    await expect(
      proposals.propose({ ...REQUEST, hints: { chol: { colour: 1 } as never } }, asker, new AbortController().signal),
    ).rejects.toMatchObject({
      code: 'invalid_input',
      message: expect.stringContaining('"chol" has no field colour'),
    });
    await expect(
      proposals.propose(
        { ...REQUEST, hints: { chol: { kind: 'blob' } as never } },
        asker,
        new AbortController().signal,
      ),
    ).rejects.toMatchObject({ code: 'invalid_input', message: expect.stringContaining('one of numeric') });
  });

  test('no federation is made for a proposal that nobody would answer', async () => {
    for (const device of [a, b]) await on.setOnline(device, false);
    const asked = { ...REQUEST, federation: 'cardiolgy', create_federation: true };
    await expect(proposals.propose(asked, asker, new AbortController().signal)).rejects.toMatchObject({
      code: 'insufficient_devices',
      message: expect.stringContaining('no federation "cardiolgy"'),
    });
    await expect(engine.sessions.federation(on.organizationId, 'cardiolgy')).rejects.toMatchObject({
      code: 'not_found',
    });
  });

  test('without an answer there is no proposal, and the sites and their reasons are named', async () => {
    const made = proposals.propose(REQUEST, asker, new AbortController().signal);
    for (const device of [a, b]) {
      await until(async () => (await engine.assignments.openAssignments(device)).length > 0);
      const key = keyOf(await assignmentOf(engine, device));
      await engine.assignments.fail(device, key, { code: 'data_mismatch', message: 'no column num' } as never);
    }
    await expect(made).rejects.toMatchObject({
      code: 'data_mismatch',
      message: expect.stringMatching(/"a".*no column num/),
    });
    expect(await proposals.store.list({ organizationId: on.organizationId })).toEqual([]);
  });
});

test('thousands of columns are described, and edits held against them, without looking through all for each', () => {
  const columns = Array.from({ length: 1_000 }, (_, at) => {
    const column = numeric(`some column ${at}`, 1);
    return at % 2 === 0 ? column : { ...column, moments: { count: 100, mean: 1, deviation: 0 } };
  });
  const excluded = columns.map(({ name }) => ({ name: `${name} id`, reason: 'identifier' as const }));
  let looks = 0;
  const statistics: SiteStatistics = {
    ...STATISTICS,
    excluded,
    get columns() {
      looks++;
      return columns;
    },
  };
  const sites = ['a', 'b', 'c'].map((name) => ({ deviceId: name, name, statistics }));
  const warnings: string[] = [];
  const spec = mergeStatistics(sites, { target: parseTargetRule('num>0'), onWarning: (text) => warnings.push(text) });
  expect(spec.columns).toHaveLength(500);
  looks = 0;
  const described = describeColumns(spec, sites, {});
  const leftOut = describeLeftOut(spec, sites, warnings, {});
  const renamed = spec.columns.map((column) => ({ ...column, aliases: [`${column.name} too`] }));
  expect(confirmedSpec({ ...spec, columns: renamed }, spec, sites, () => undefined).columns).toHaveLength(500);
  expect(looks).toBeLessThan(30);
  expect(described[7]).toMatchObject({ why: 'numbers at 3 sites', missing: { a: 0, b: 0, c: 0 } });
  expect(leftOut).toHaveLength(1_500);
  expect(leftOut).toContainEqual({
    ...{ name: 'some column 1', reason: 'left_out', sites: ['a', 'b', 'c'] },
    why: 'it is the same in all rows that may be counted',
  });
});
