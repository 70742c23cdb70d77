/** What a device should run of one model, as rollouts decide it. */
export interface DesiredModelFacts {
  readonly modelId: string;
  readonly modelName: string;
  readonly versionId: string;
  readonly version: string;
  readonly rolloutId: number;
  readonly activation: string;
  readonly artifacts: readonly {
    readonly format: string;
    readonly fileName: string;
    readonly sha256: string;
    readonly sizeBytes: number;
  }[];
}

/** What a device says of one model; the receiver checks it. */
export interface ReportedModel {
  readonly modelId: string;
  readonly versionId: string | null;
  readonly rolloutId: number | null;
  readonly state: string;
  readonly activeVersionId: string | null;
  readonly problem: { readonly code: string; readonly message: string } | null;
}

/** The sliver of rollouts that devices' routes need. */
export interface DesiredSource {
  desiredState(deviceId: string): Promise<readonly DesiredModelFacts[]>;
  /** The file with this digest, if the device should run a version that holds it. */
  desiredObject(deviceId: string, sha256: string): Promise<{ objectKey: string; sizeBytes: number } | undefined>;
  /** Stores what a device says it runs. @throws `invalid_input` */
  observeRaw(deviceId: string, models: readonly ReportedModel[]): Promise<unknown>;
  /** What decides about these devices (labels, groups, facts) changed. */
  devicesChanged(deviceIds: readonly string[]): void;
}
