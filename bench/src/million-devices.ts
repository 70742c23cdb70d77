import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { AffectedDevices, DeviceRecords, DeviceSelector, openDatabase } from '@octomil/coordinator';
import { OctomilError } from '@octomil/shared/errors';
import { createLogger, systemClock } from '@octomil/shared/runtime';
import pg from 'pg';
import { callApi, uploadVersion } from './bench-seeds.js';
import { freePort, startCoordinatorProcess } from './coordinator-process.js';
import { freshDatabase } from './fresh-database.js';
import { encodeRequest, LeanConnection } from './lean-connection.js';
import { PlanRecorder } from './plan-recorder.js';
import { type BenchmarkResult, percentile, type ResultValue } from './result.js';

export interface MillionDevicesOptions {
  readonly devices: number;
  /** Devices of a round. */
  readonly select: number;
  readonly repeats: number;
}

/** Written with at least a million devices, in the folder the benchmark is run in: the repository's root. */
const PLANS_FILE = 'docs/query-plans.md';
const PLANS_FROM = 1_000_000;
const PAGE = 100;
const COMMON = { region: 'eu' };
const RARE = { tier: 'rare' };

/** Every tenth device is online, every second carries the common label, every thousandth the rare one. */
const FILL = `
  insert into devices (id, organization_id, device_identifier, placement, labels, capabilities, site, session_process_id,
    lease_until, created_at)
  select gen_random_uuid(), (select id from organizations limit 1), 'device-' || n, random(),
    jsonb_build_object('region', case n % 2 when 0 then 'eu' else 'us' end)
      || case when n % 1000 = 0 then '{"tier": "rare"}'::jsonb else '{}' end,
    '{"platform": "linux", "trainers": ["echo"]}',
    '{"dataSets": [], "policyRules": [{"name": "all", "federations": ["*"], "models": ["*"], "dataSets": ["*"]}]}',
    case when n % 10 < 1 then 'process-' || n end, case when n % 10 < 1 then now() + interval '1 day' end,
    now() - n * interval '1 second'
  from generate_series(1, $1::integer) as n`;

/** As if every device in the rollout's share had answered. */
const ANSWER = `
  insert into device_models (device_id, model_id, rollout_id, version_id, active_version_id, state, health)
  select d.id, r.model_id, r.id, r.version_id, r.version_id, 'active', '{"inferences": 30, "inferenceErrors": 0}'
  from rollouts r join devices d on d.organization_id = r.organization_id
    and d.placement + r.placement_offset - floor(d.placement + r.placement_offset) < r.share_ratio
  where r.id = $1`;

/**
 * What might depend on the number of devices, with a million of them: choosing those of a round, in this process, and
 * pages and figures over REST from a coordinator of its own. Each is asked many times, pages one after another.
 */
export async function millionDevicesBench({
  devices,
  select,
  repeats,
}: MillionDevicesOptions): Promise<BenchmarkResult> {
  const folder = await mkdtemp(join(tmpdir(), 'octomil-bench-'));
  const fresh = await freshDatabase();
  if (fresh === undefined) throw new OctomilError('config_invalid', 'this benchmark needs PostgreSQL');
  const coordinator = await startCoordinatorProcess({
    dataDir: join(folder, 'coordinator'),
    databaseUrl: fresh.url,
    restPort: await freePort(),
    grpcPort: await freePort(),
    logFile: join(folder, 'coordinator.log'),
  });
  const database = await openDatabase({ url: fresh.url, logger: createLogger('bench', 'warn'), clock: systemClock });
  const plans = new PlanRecorder(database);
  const client = new pg.Client({ connectionString: fresh.url });
  const http = await LeanConnection.open(coordinator.restUrl);
  try {
    await client.connect();
    const fillingAt = performance.now();
    await client.query(FILL, [devices]);
    await client.query('vacuum analyze');
    const results: Record<string, ResultValue> = { fillSeconds: Math.round((performance.now() - fillingAt) / 1000) };
    const measure = async (name: string, ask: () => Promise<unknown>): Promise<void> => {
      for (let warm = 0; warm < 3; warm++) await ask();
      const tookMs: number[] = [];
      for (let repeat = 0; repeat < repeats; repeat++) {
        const from = performance.now();
        await ask();
        tookMs.push(performance.now() - from);
      }
      results[`${name}P50Ms`] = rounded(percentile(tookMs, 0.5));
      results[`${name}MaxMs`] = rounded(Math.max(...tookMs));
    };

    const organization = await client.query<{ id: string }>('select id from organizations limit 1');
    const organizationId = organization.rows[0]?.id ?? '';
    const choose = (selector: DeviceSelector, labels: Record<string, string>) => async (): Promise<void> => {
      const chosen = await selector.select({
        demand: {
          federation: { id: 'none', name: 'fleet' },
          model: { id: 'none', name: 'fleet' },
          dataSet: '',
          trainer: 'echo',
          selector: labels,
        },
        organizationIds: [organizationId],
        count: select,
        start: Math.random(),
      });
      if (chosen.length !== select) throw new OctomilError('internal', `only ${chosen.length} devices were chosen`);
    };
    const selector = new DeviceSelector(database);
    await measure('select', choose(selector, {}));
    await measure('selectByLabel', choose(selector, COMMON));

    const bench = { apiKey: coordinator.apiKey(), apiBase: `${coordinator.restUrl}/api/v1` };
    const get = async (path: string): Promise<Record<string, unknown>> => {
      const request = encodeRequest({ method: 'GET', path: `/api/v1${path}`, bearer: bench.apiKey });
      const { status, body } = await http.exchange(request);
      if (status === 200) return JSON.parse(body.toString()) as Record<string, unknown>;
      throw new OctomilError('internal', `${path} was answered ${status}: ${body.toString().slice(0, 300)}`);
    };
    /** The first page again and again, then page after page. */
    const pages = async (name: string, path: string): Promise<void> => {
      await measure(`${name}First`, () => get(path));
      let cursor = '';
      await measure(`${name}Next`, async () => {
        const { next_cursor: next } = await get(`${path}${cursor}`);
        cursor = typeof next === 'string' ? `&cursor=${next}` : '';
      });
    };
    await pages('devices', `/devices?limit=${PAGE}`);
    await pages('devicesByLabel', `/devices?limit=${PAGE}&label=region%3Deu`);
    await pages('devicesByRareLabel', `/devices?limit=${PAGE}&label=tier%3Drare`);
    await measure('devicesOnline', () => get(`/devices?limit=${PAGE}&status=online`));
    await measure('devicesSearched', () => get(`/devices?limit=${PAGE}&search=device-77`));

    const rollouts: Record<string, number> = {};
    const cases = { rollout: {}, rolloutByLabel: { labels: COMMON }, rolloutByRareLabel: { labels: RARE } };
    for (const [name, given] of Object.entries(cases)) {
      const { id: modelId } = await callApi(bench, 'POST', '/models', { name, framework: 'pytorch' });
      await uploadVersion(bench, String(modelId), '1.0.0', 1_000);
      const path = `/models/${String(modelId)}/rollouts`;
      const { id } = await callApi(bench, 'POST', path, {
        version: '1.0.0',
        rollout_percentage: 10,
        selector: given,
        start_immediately: true,
      });
      await client.query(ANSWER, [id]);
      await client.query('vacuum analyze device_models');
      rollouts[name] = Number(id);
      await pages(`${name}Page`, `${path}/${String(id)}/affected-devices?limit=${PAGE}`);
      await measure(`${name}Figures`, () => get(`${path}/${String(id)}`));
    }

    if (devices >= PLANS_FROM) {
      const records = new DeviceRecords(plans.database, Math.random);
      const affected = new AffectedDevices(plans.database);
      const noted = new DeviceSelector(plans.database);
      const list = (query: object) => () => records.list(organizationId, { limit: PAGE, offset: 0, ...query });
      const page = (name: string) => async () => {
        const rollout = await database.kysely
          .selectFrom('rollouts')
          .selectAll()
          .where('id', '=', rollouts[name] ?? 0)
          .executeTakeFirstOrThrow();
        await affected.page({ ...rollout, version: '', previous_version: null }, { limit: PAGE, offset: 0 });
      };
      const works: readonly (readonly [string, () => Promise<unknown>])[] = [
        [`Choosing ${select} devices for a round`, choose(noted, {})],
        [`Choosing ${select} devices with a label`, choose(noted, COMMON)],
        ["A page of a rollout's devices", page('rollout')],
        ["A page of a rollout's devices, by a label that half of them carry", page('rolloutByLabel')],
        ["A page of a rollout's devices, by a label that one in a thousand carries", page('rolloutByRareLabel')],
        ['A page of devices', list({})],
        ['A page of devices by a label that half of them carry', list({ labels: COMMON })],
        ['A page of devices by a label that one in a thousand carries', list({ labels: RARE })],
        ['A page of devices that are online', list({ status: 'online' })],
      ];
      const sections: string[] = [];
      for (const [title, work] of works) sections.push(await plans.plansOf(title, client, work));
      const version = await client.query<{ server_version: string }>('show server_version');
      await writeFile(PLANS_FILE, planPage(devices, version.rows[0]?.server_version ?? '', sections));
    }
    return results;
  } finally {
    await client.end();
    http.close();
    await database.close();
    await coordinator.stop();
    await fresh.drop();
    await rm(folder, { recursive: true, force: true });
  }
}

function planPage(devices: number, serverVersion: string, sections: readonly string[]): string {
  const date = new Date().toISOString().slice(0, 10);
  return `# Query plans

Written by \`npm run bench -- devices\` with ${devices.toLocaleString('en')} devices of one organization, PostgreSQL ${serverVersion}, ${date}. \`explain (analyze, buffers)\` with everything in memory; one device in ten is online, half carry \`region: eu\`, one in a thousand \`tier: rare\`. The times are in [benchmarks](benchmarks.md).

${sections.join('\n\n')}
`;
}

function rounded(value: number): number {
  return Math.round(value * 10) / 10;
}
