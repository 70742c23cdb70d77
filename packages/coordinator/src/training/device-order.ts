import type { AcceptedAnswer } from './round-store.js';

/**
 * By identifier, then by id: names are chosen by people and stay when a device is enrolled anew, so that the same sites
 * give the same bytes again. Compared by code units, which no database's collation changes.
 *
 * Two organizations may have chosen one name: their devices get the id beside it, as what sites tell is kept by name.
 */
export function inDeviceOrder(answers: readonly AcceptedAnswer[]): AcceptedAnswer[] {
  const key = ({ deviceName, deviceId }: AcceptedAnswer) => `${deviceName}\n${deviceId}`;
  const sorted = [...answers].sort((a, b) => (key(a) < key(b) ? -1 : 1));
  return sorted.map((answer, place) => {
    const { deviceName, deviceId } = answer;
    const isShared = [sorted[place - 1], sorted[place + 1]].some((beside) => beside?.deviceName === deviceName);
    return isShared ? { ...answer, deviceName: `${deviceName} (${deviceId})` } : answer;
  });
}
