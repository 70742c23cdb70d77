import type { DataSource } from '@octomil/shared/data';
import type { LogLevel } from '@octomil/shared/runtime';
import type { OwnCode } from '@octomil/shared/training';
import type { Conditions } from '../conditions/eligibility.js';
import type { Policy } from '../policy/policy.js';
import type { PeerAddress } from './address.js';
import { withoutSignatures } from './data-places.js';
import type { ProxySettings } from './proxy.js';

/** Files, not contents: they are read when a connection is made, so that a renewed certificate is taken up. */
export interface TlsSettings {
  /** PEM file of the private certificate authority; default: the system's. */
  readonly caPath?: string;
  readonly certificatePath?: string;
  readonly keyPath?: string;
  /** Name in the coordinator's certificate where it differs from the address. */
  readonly serverName?: string;
}

/** Everything that the agent was told at its start. Frozen. */
export interface AgentConfig {
  readonly coordinator: PeerAddress;
  readonly deviceIdentifier: string;
  /** Needed once; undefined where the state folder already holds a credential. */
  readonly enrollmentToken: string | undefined;
  /** Credential, cached bases, half-done uploads, audit log. Owner only. */
  readonly stateDir: string;
  readonly dataSets: Readonly<Record<string, DataSource>>;
  readonly labels: Readonly<Record<string, string>>;
  readonly policy: Policy;
  readonly tls: TlsSettings;
  readonly proxy: ProxySettings;
  /** Allows plaintext to hosts other than this machine. Default false. */
  readonly insecure: boolean;
  /** Where `/healthz`, `/readyz` and `/metrics` are served; undefined: nowhere. */
  readonly metrics: { readonly host: string; readonly port: number } | undefined;
  readonly logLevel: LogLevel;
  readonly trainer: {
    /** Resident memory of its process. */
    readonly memoryLimitMb: number | undefined;
    readonly idleMs: number;
    /** For rows that do not fit into memory. */
    readonly temporaryFolder: string;
  };
  /** Training code of this site's own, by the name that sessions ask for. What may run is the policy's matter. */
  readonly trainers: Readonly<Record<string, OwnCode>>;
  /** When the machine may train, download and activate. Default: always. */
  readonly conditions: Conditions;
  /** Whether the network is metered; undefined asks the system. */
  readonly metered: boolean | undefined;
  /** Models that may be deployed here, `*` for any characters; undefined: every model of the organization. */
  readonly deployableModels: readonly string[] | undefined;
  /** Bases and artifacts beyond this are dropped, least recently used first; what is deployed does not count. Default 4 GiB. */
  readonly modelsCacheBytes: number;
  /** Bases and artifacts may come straight from the coordinator's bucket. Default true. */
  readonly directDownloads: boolean;
  /** Temporary copies of remote data together; of large Parquet files the fetched columns alone. Default 16 GiB. */
  readonly sourceCacheBytes: number;
  /** How long a stop waits for running work before it is abandoned. Default 10 s. */
  readonly stopGraceMs: number;
}

/** What `octomil config` prints: the same without secrets. */
export function redactedConfig(config: AgentConfig): Record<string, unknown> {
  const { url } = config.proxy;
  return {
    ...config,
    enrollmentToken: config.enrollmentToken === undefined ? undefined : '[redacted]',
    dataSets: Object.fromEntries(
      Object.entries(config.dataSets).map(([name, source]) => [name, withoutSignatures(source)]),
    ),
    proxy: { ...config.proxy, url: url?.replace(/\/\/[^@/]*@/, '//[redacted]@') },
  };
}
