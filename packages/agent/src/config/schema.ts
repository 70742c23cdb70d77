import { TRAINER_NAME_PATTERN } from '@octomil/shared/training';
import { type Static, Type } from 'typebox';
import { TIME_WINDOW_PATTERN } from '../conditions/time-window.js';

const Text = Type.String({ minLength: 1, maxLength: 4096 });
const Names = Type.Array(Type.String({ minLength: 1, maxLength: 256 }), { minItems: 1 });

/** One allowance; `*` stands for every name. */
export const PolicyRuleSchema = Type.Object(
  {
    name: Text,
    federations: Names,
    models: Names,
    data_sets: Names,
    columns: Type.Optional(Names),
    hours: Type.Optional(Type.Array(Type.String({ pattern: TIME_WINDOW_PATTERN }), { minItems: 1 })),
    min_privacy: Type.Optional(Type.Enum(['none', 'secure_aggregation', 'noise'])),
  },
  { additionalProperties: false },
);

export const PolicySchema = Type.Object(
  {
    allow: Type.Array(PolicyRuleSchema),
    max_questions: Type.Optional(Type.Integer({ minimum: 1, maximum: 10_000 })),
    paused: Type.Optional(Type.Boolean()),
    code: Type.Optional(
      Type.Object(
        {
          allow: Type.Array(
            Type.Object(
              {
                trainer: Type.String({ pattern: TRAINER_NAME_PATTERN }),
                sha256: Type.String({ pattern: '^[0-9a-f]{64}$' }),
              },
              { additionalProperties: false },
            ),
          ),
        },
        { additionalProperties: false },
      ),
    ),
    resources: Type.Optional(
      Type.Object(
        {
          cpu_percent: Type.Optional(Type.Number({ minimum: 1, maximum: 100 })),
          memory_mb: Type.Optional(Type.Integer({ minimum: 64, maximum: 1_048_576 })),
          bandwidth_mbit: Type.Optional(Type.Number({ minimum: 0.1, maximum: 1_000_000 })),
        },
        { additionalProperties: false },
      ),
    ),
  },
  { additionalProperties: false },
);

const DataSetSchema = Type.Object(
  {
    path: Text,
    files: Type.Optional(Type.Array(Text, { minItems: 1, maxItems: 10_000 })),
    format: Type.Optional(Type.Enum(['csv', 'parquet', 'jsonl'])),
    reader: Type.Optional(Type.Enum(['duckdb', 'parquetjs-lite'])),
    delimiter: Type.Optional(Type.String({ minLength: 1, maxLength: 1 })),
    header: Type.Optional(Type.Boolean()),
    columns: Type.Optional(Type.Array(Type.String(), { minItems: 1, maxItems: 10_001 })),
    decimal_separator: Type.Optional(Type.Enum(['.', ','])),
    thousands_separator: Type.Optional(Type.Enum([',', '.', ' ', "'"])),
    comment: Type.Optional(Type.String({ minLength: 1, maxLength: 1 })),
    encoding: Type.Optional(Type.Enum(['utf-8', 'latin-1', 'utf-16'])),
    missing_texts: Type.Optional(Type.Array(Type.String())),
    units: Type.Optional(Type.Record(Type.String(), Text)),
    names: Type.Optional(Type.Record(Type.String(), Text)),
    images: Type.Optional(
      Type.Object({ column: Type.Optional(Text), labels: Type.Optional(Text) }, { additionalProperties: false }),
    ),
    max_unpacked_mb: Type.Optional(Type.Integer({ minimum: 1, maximum: 16_777_216 })),
  },
  { additionalProperties: false },
);

export type DataSetFile = Static<typeof DataSetSchema>;

const OwnTrainerSchema = Type.Object(
  {
    command: Type.Optional(Type.Array(Text, { minItems: 1, maxItems: 1_000 })),
    module: Type.Optional(Text),
    folder: Type.Optional(Text),
    data: Type.Optional(Type.Enum(['parquet', 'safetensors', 'path'])),
    timeout_seconds: Type.Optional(Type.Number({ minimum: 1, maximum: 604_800 })),
    memory_limit_mb: Type.Optional(Type.Integer({ minimum: 16, maximum: 16_777_216 })),
    max_output_mb: Type.Optional(Type.Integer({ minimum: 1, maximum: 16_777_216 })),
    env: Type.Optional(Type.Array(Type.String({ pattern: '^[A-Za-z_][A-Za-z0-9_]*$' }))),
  },
  { additionalProperties: false },
);
export type OwnTrainerFile = Static<typeof OwnTrainerSchema>;

const ConditionRulesSchema = Type.Object(
  {
    min_battery_percent: Type.Optional(Type.Number({ minimum: 0, maximum: 100 })),
    charging: Type.Optional(Type.Boolean()),
    unmetered: Type.Optional(Type.Boolean()),
    idle: Type.Optional(Type.Boolean()),
    time_window: Type.Optional(Type.Array(Type.String({ pattern: TIME_WINDOW_PATTERN }), { minItems: 1 })),
    min_free_disk_mb: Type.Optional(Type.Integer({ minimum: 0 })),
  },
  { additionalProperties: false },
);
export type ConditionRulesFile = Static<typeof ConditionRulesSchema>;

/** `agent.yaml`. A data set may be a bare path, and the policy the path of a file of its own. */
export const AgentFileSchema = Type.Object(
  {
    coordinator: Text,
    device_identifier: Type.String({ minLength: 1, maxLength: 256 }),
    enrollment_token: Type.Optional(Text),
    enrollment_token_file: Type.Optional(Text),
    state_dir: Text,
    data_sets: Type.Optional(Type.Record(Type.String(), DataSetSchema)),
    labels: Type.Optional(Type.Record(Type.String(), Type.String({ maxLength: 256 }))),
    policy: Type.Optional(PolicySchema),
    tls: Type.Optional(
      Type.Object(
        {
          ca: Type.Optional(Text),
          certificate: Type.Optional(Text),
          key: Type.Optional(Text),
          server_name: Type.Optional(Text),
        },
        { additionalProperties: false },
      ),
    ),
    proxy: Type.Optional(Text),
    no_proxy: Type.Optional(Type.Array(Text)),
    insecure: Type.Optional(Type.Boolean()),
    metrics: Type.Optional(
      Type.Object(
        { host: Type.Optional(Text), port: Type.Integer({ minimum: 0, maximum: 65_535 }) },
        { additionalProperties: false },
      ),
    ),
    log_level: Type.Optional(Type.Enum(['debug', 'info', 'warn', 'error', 'silent'])),
    trainer: Type.Optional(
      Type.Object(
        {
          memory_limit_mb: Type.Optional(Type.Integer({ minimum: 64, maximum: 1_048_576 })),
          idle_seconds: Type.Optional(Type.Integer({ minimum: 0, maximum: 86_400 })),
        },
        { additionalProperties: false },
      ),
    ),
    trainers: Type.Optional(Type.Record(Type.String(), OwnTrainerSchema)),
    conditions: Type.Optional(
      Type.Object(
        {
          training: Type.Optional(ConditionRulesSchema),
          downloads: Type.Optional(ConditionRulesSchema),
          activation: Type.Optional(ConditionRulesSchema),
          metered: Type.Optional(Type.Boolean()),
        },
        { additionalProperties: false },
      ),
    ),
    deployments: Type.Optional(
      Type.Object({ models: Type.Optional(Type.Array(Text)) }, { additionalProperties: false }),
    ),
    source_cache_mb: Type.Optional(Type.Integer({ minimum: 1, maximum: 16_777_216 })),
    direct_downloads: Type.Optional(Type.Boolean()),
    models_cache_mb: Type.Optional(Type.Integer({ minimum: 1, maximum: 1_048_576 })),
    stop_grace_seconds: Type.Optional(Type.Integer({ minimum: 0, maximum: 3_600 })),
  },
  { additionalProperties: false },
);

export type AgentFile = Static<typeof AgentFileSchema>;
