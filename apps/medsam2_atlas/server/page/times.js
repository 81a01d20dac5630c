/* Times of the server in words, for the pages and for the viewer. */

const RECENT_MS = 12 * 3600 * 1000;

/** Returns a time in short: the hour for times of today and of the last half day, also after midnight; otherwise the day. */
export function shortTime(text) {
  const time = new Date(text);
  if (!text || Number.isNaN(time.getTime())) {
    return '';
  }
  const now = new Date();
  const hour = time.toLocaleTimeString('en-GB', { hour: '2-digit', minute: '2-digit' });
  if (time.toDateString() === now.toDateString() || Math.abs(now - time) < RECENT_MS) {
    return hour;
  }
  const day = time.toLocaleDateString('en-GB', { day: 'numeric', month: 'short', year: time.getFullYear() === now.getFullYear() ? undefined : 'numeric' });
  return day;
}

/** Returns a time in full; empty if there is none. */
export function fullTime(text) {
  const time = new Date(text);
  return !text || Number.isNaN(time.getTime()) ? '' : time.toLocaleString('en-GB', { dateStyle: 'medium', timeStyle: 'short' });
}
