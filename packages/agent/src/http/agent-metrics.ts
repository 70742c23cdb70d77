/** Counters and gauges of the agent, in Prometheus text format (version 0.0.4). All names are here. */
const METRICS = {
  octomil_agent_connected: { type: 'gauge', help: '1 while the agent has a session with the coordinator.' },
  octomil_agent_sessions_total: { type: 'counter', help: 'Sessions that were welcomed.' },
  octomil_agent_assignments_running: { type: 'gauge', help: 'Assignments being worked on.' },
  octomil_agent_assignments_total: { type: 'counter', help: 'Finished assignments by outcome.' },
  octomil_agent_downloaded_bytes_total: { type: 'counter', help: 'Bytes of bases fetched.' },
  octomil_agent_uploaded_bytes_total: { type: 'counter', help: 'Bytes of updates delivered.' },
  process_resident_memory_bytes: { type: 'gauge', help: 'Resident memory of the daemon without its trainer process.' },
} as const;

export type MetricName = keyof typeof METRICS;

export class AgentMetrics {
  readonly #values = new Map<MetricName, Map<string, number>>();
  readonly #reads = new Map<MetricName, () => number>();

  add(name: MetricName, amount = 1, outcome?: string): void {
    const label = outcome === undefined ? '' : `{outcome="${outcome}"}`;
    const values = this.#values.get(name) ?? new Map<string, number>();
    values.set(label, (values.get(label) ?? 0) + amount);
    this.#values.set(name, values);
  }

  /** A gauge that is read when asked for. */
  observe(name: MetricName, read: () => number): void {
    this.#reads.set(name, read);
  }

  render(): string {
    const lines: string[] = [];
    for (const [name, { type, help }] of Object.entries(METRICS) as [MetricName, (typeof METRICS)[MetricName]][]) {
      lines.push(`# HELP ${name} ${help}`, `# TYPE ${name} ${type}`);
      const read = this.#reads.get(name);
      if (read !== undefined) lines.push(`${name} ${read()}`);
      for (const [label, value] of this.#values.get(name) ?? []) lines.push(`${name}${label} ${value}`);
      if (read === undefined && !this.#values.has(name) && name !== 'octomil_agent_assignments_total')
        lines.push(`${name} 0`);
    }
    return `${lines.join('\n')}\n`;
  }
}
