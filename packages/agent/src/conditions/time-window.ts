/** Part of a day, in minutes since local midnight; it may span midnight. */
export interface TimeWindow {
  readonly fromMinute: number;
  /** Not part of it any more. */
  readonly toMinute: number;
}

/** Of `22:00-06:00`; `24:00` may be its end. */
export const TIME_WINDOW_PATTERN = '^([01]\\d|2[0-3]):[0-5]\\d-(([01]\\d|2[0-3]):[0-5]\\d|24:00)$';

/** @param text one that matches {@link TIME_WINDOW_PATTERN} */
export function parseTimeWindow(text: string): TimeWindow {
  const [from = '', to = ''] = text.split('-');
  return { fromMinute: minuteOf(from), toMinute: minuteOf(to) };
}

/** Pure, but for the time zone of the process. Equal ends mean the whole day. */
export function inTimeWindow({ fromMinute, toMinute }: TimeWindow, nowMs: number): boolean {
  const now = new Date(nowMs);
  const minute = now.getHours() * 60 + now.getMinutes();
  return fromMinute < toMinute ? minute >= fromMinute && minute < toMinute : minute >= fromMinute || minute < toMinute;
}

export function formatTimeWindow({ fromMinute, toMinute }: TimeWindow): string {
  return `${clockTime(fromMinute)}-${clockTime(toMinute)}`;
}

function minuteOf(text: string): number {
  const [hours, minutes] = text.split(':');
  return Number(hours) * 60 + Number(minutes);
}

function clockTime(minute: number): string {
  return `${String(Math.floor(minute / 60)).padStart(2, '0')}:${String(minute % 60).padStart(2, '0')}`;
}
