import { lookup } from 'node:dns/promises';
import { stat, statfs } from 'node:fs/promises';
import { dirname } from 'node:path';
import { toOctomilError } from '@octomil/shared/errors';
import { hostPort } from '../config/address.js';
import type { AgentConfig } from '../config/agent-config.js';
import { withoutSignatures } from '../config/data-places.js';
import { proxyFor } from '../config/proxy.js';
import { readSummaries } from '../data-sets/read-summary.js';
import { withSiteData } from '../data-sets/site-data.js';
import { type Summarize, summarizeInProcess } from '../data-sets/summary.js';
import { policyNow } from '../policy/paused.js';
import { readCredential } from '../state/credential.js';
import { type DoctorCheck, ill, well } from './check.js';
import { checkConnection } from './connection-checks.js';

export interface DoctorOptions {
  readonly summarize?: Summarize;
  /** Milliseconds since the epoch; the clock that is checked. */
  readonly now?: () => number;
  /** Per network step. Default 5 s. */
  readonly timeoutMs?: number;
}

const GIB = 1_073_741_824;
/** Below this bases and updates soon do not fit. */
const LOW_DISK_BYTES = GIB;

/**
 * Looks at everything that an agent needs and changes nothing: the agent may be running meanwhile. Never rejects for what
 * it finds; in the order in which an operator would look.
 */
export async function runDoctor(config: AgentConfig, options: DoctorOptions = {}): Promise<DoctorCheck[]> {
  const { summarize = summarizeInProcess, now = Date.now, timeoutMs = 5_000 } = options;
  const network = await networkChecks(config, timeoutMs, now);
  const [folder, data] = await Promise.all([folderChecks(config), dataChecks(config, summarize)]);
  return [...network, ...folder, ...data, policyCheck({ ...config, policy: policyNow(config) })];
}

async function networkChecks(config: AgentConfig, timeoutMs: number, now: () => number): Promise<DoctorCheck[]> {
  const { coordinator } = config;
  const proxy = proxyFor(config.proxy, coordinator);
  const host = proxy?.hostname.replace(/^\[|\]$/g, '') ?? coordinator.host;
  const checks: DoctorCheck[] = [
    proxy === undefined
      ? well('proxy', 'none is used for the coordinator')
      : well('proxy', `${proxy.host} is used for ${hostPort(coordinator)}`),
  ];
  try {
    const found = await lookup(host, { all: true });
    checks.push(well('dns', `${host} is ${found.map(({ address }) => address).join(', ')}`));
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    checks.push(
      ill(
        'dns',
        `${host} has no address (${code})`,
        'check the name in "coordinator" and the resolver of this machine',
      ),
    );
    return checks;
  }
  checks.push(...(await checkConnection(config, proxy, timeoutMs, now)));
  return checks;
}

async function folderChecks(config: AgentConfig): Promise<DoctorCheck[]> {
  const { stateDir } = config;
  const checks: DoctorCheck[] = [];
  const found = await stat(stateDir).catch(() => undefined);
  if (found === undefined) checks.push(well('state folder', `${stateDir} will be made at the first start`));
  else if (!found.isDirectory())
    checks.push(ill('state folder', `${stateDir} is not a folder`, 'set another state_dir'));
  else if (process.platform !== 'win32' && (found.mode & 0o077) !== 0) {
    checks.push(
      ill('state folder', `${stateDir} has mode ${(found.mode & 0o777).toString(8)}`, `run "chmod 700 ${stateDir}"`),
    );
  } else checks.push(well('state folder', stateDir));
  checks.push(await credentialCheck(config), await diskCheck(stateDir));
  return checks;
}

async function credentialCheck(config: AgentConfig): Promise<DoctorCheck> {
  const check = 'credential';
  try {
    const path = `${config.stateDir}/credential.json`;
    const credential = await readCredential(path);
    if (credential !== undefined) {
      return credential.deviceIdentifier === config.deviceIdentifier
        ? well(check, `enrolled as ${credential.deviceIdentifier} (${credential.deviceId})`)
        : ill(
            check,
            `the folder belongs to "${credential.deviceIdentifier}"`,
            'correct device_identifier or set another state_dir',
          );
    }
    return config.enrollmentToken === undefined
      ? ill(
          check,
          'not enrolled, and no enrollment_token',
          'create one with "octomil enroll" at the coordinator and set it',
        )
      : well(check, 'not enrolled yet; an enrolment token is set');
  } catch (thrown) {
    return ill(check, toOctomilError(thrown).reason);
  }
}

async function diskCheck(stateDir: string): Promise<DoctorCheck> {
  for (let folder = stateDir; ; folder = dirname(folder)) {
    try {
      const { bavail, bsize } = await statfs(folder);
      const freeBytes = bavail * bsize;
      const detail = `${(freeBytes / GIB).toFixed(1)} GiB free at ${folder}`;
      return freeBytes >= LOW_DISK_BYTES
        ? well('disk', detail)
        : ill('disk', detail, 'free at least 1 GiB, or set state_dir on another disk');
    } catch (error) {
      if (folder === dirname(folder)) return ill('disk', String((error as Error).message), 'set another state_dir');
    }
  }
}

async function dataChecks(config: AgentConfig, summarize: Summarize): Promise<DoctorCheck[]> {
  const entries = Object.entries(config.dataSets);
  if (entries.length === 0) return [ill('data', 'no data set is configured', 'name one under data_sets')];
  try {
    const found = await withSiteData(config, (data) =>
      readSummaries(
        entries.map(([, source]) => source),
        data,
        summarize,
        new AbortController().signal,
      ),
    );
    return entries.map(([name, source], index) => {
      const check = `data ${name}`;
      const read = found[index];
      if (read === undefined) return ill(check, 'no answer', 'run the doctor again');
      const { path } = withoutSignatures(source);
      const { summary, error, inFull } = read;
      // Here, at the site, the place is told.
      if (error !== undefined) return ill(check, `[${error.code}] ${error.reason}`);
      if (summary.problem !== '')
        return ill(check, inFull ?? summary.problem, `mend ${path}, or its settings under data_sets`);
      return summary.rowCount === 0
        ? ill(check, `${path} has fewer than 10 rows`, 'a site takes part with at least 10 rows')
        : well(check, `${path}: ${summary.format}, about ${summary.rowCount} rows`);
    });
  } catch (thrown) {
    return [ill('data', toOctomilError(thrown).reason, 'the reader could not run')];
  }
}

function policyCheck({ policy, dataSets }: AgentConfig): DoctorCheck {
  if (policy.allow.length === 0) {
    return ill(
      'policy',
      'no rule: every assignment is refused',
      'allow a federation, its models and a data set under policy.allow',
    );
  }
  if (policy.paused === true) {
    return ill(
      'policy',
      'this site is paused: every assignment is refused',
      'octomil agent resume, or paused: false in the policy',
    );
  }
  const names = Object.keys(dataSets);
  const idle = policy.allow.filter((rule) => !rule.dataSets.some((name) => name.includes('*') || names.includes(name)));
  if (idle.length > 0 && names.length > 0) {
    const [first] = idle;
    return ill(
      'policy',
      `rule "${first?.name}" names no data set of this site`,
      `its data_sets should be among ${names.join(', ')}`,
    );
  }
  return well('policy', `${policy.allow.length} rule(s): ${policy.allow.map(({ name }) => name).join(', ')}`);
}
