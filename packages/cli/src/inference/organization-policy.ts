import type { RoutingPolicy } from '@octomil/inference/routing';
import { connect } from '../access/connect.js';

/**
 * The organization's routing policy for whoever is logged in, asked for again when it has expired; what it was last holds
 * until the answer is there, and while the coordinator cannot be reached.
 *
 * @returns undefined without a key
 */
export async function organizationPolicy(): Promise<(() => RoutingPolicy) | undefined> {
  const client = await connect().catch(() => undefined);
  if (client === undefined) return undefined;
  const policies = client.routingPolicy();
  let held = await policies.current();
  return () => {
    // It never fails, and asks only when it is time.
    void policies.current().then((policy) => {
      held = policy;
    });
    return held;
  };
}
