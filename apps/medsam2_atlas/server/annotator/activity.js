/* Counts how long a person works on a case, and on which organ. Pauses are not counted. Only seconds leave the browser, at signing off. */

const PAUSE_MS = 60000; // a longer time without a movement, a key or the wheel is a pause
const KEPT = 'medsam2_atlas.activity'; // survives a reload of this tab
const EVENTS = ['pointermove', 'pointerdown', 'wheel', 'keydown'];

/** Sums times between signs of activity. */
export class Activity {
  /**
   * @param {string} image the case
   * @param {() => number} clock returns milliseconds
   */
  constructor(image, clock = () => performance.now()) {
    this.image = image;
    this.organ = 0; // number of the organ that the person has chosen; 0 before the first choice
    this._clock = clock;
    this._last = null;
    const { image: kept, total = 0, organs = [] } = read();
    this.total = kept === image ? total : 0;
    this.organs = new Map(kept === image ? organs : []);
  }

  /** Notes a sign of activity: the time since the last one counts, unless it was a pause. */
  seen() {
    const now = this._clock();
    const passed = this._last === null ? 0 : now - this._last;
    this._last = now;
    if (passed <= 0 || passed > PAUSE_MS) {
      return;
    }
    this.total += passed / 1000;
    if (this.organ) {
      this.organs.set(this.organ, (this.organs.get(this.organ) || 0) + passed / 1000);
    }
  }

  /** Notes the choice of an organ; the time until now belongs to the one before. */
  choose(organ) {
    this.seen();
    this.organ = organ;
  }

  /** The parameters of a submission; empty if nothing was counted. */
  get query() {
    const organs = [...this.organs].filter(([, seconds]) => seconds >= 0.1).map(([organ, seconds]) => organ + ':' + seconds.toFixed(1));
    return this.total >= 0.1 ? { active_seconds: this.total.toFixed(1), organ_seconds: organs.join(',') || null } : {};
  }

  /** Begins anew, after a label map was signed off. */
  restart() {
    this.total = 0;
    this.organs.clear();
    this.keep();
  }

  /** Keeps the seconds for a reload of the page. */
  keep() {
    try {
      window.sessionStorage.setItem(KEPT, JSON.stringify({ image: this.image, total: this.total, organs: [...this.organs] }));
    } catch {
      // the browser stores nothing; the seconds since the last reload are sent
    }
  }
}

function read() {
  try {
    return JSON.parse(window.sessionStorage.getItem(KEPT)) || {};
  } catch {
    return {};
  }
}

/** Follows the person's activity on the page; returns a function that ends it. */
export function followActivity(activity) {
  const seen = () => activity.seen();
  const leaving = () => activity.keep();
  EVENTS.forEach(name => document.addEventListener(name, seen, { capture: true, passive: true }));
  window.addEventListener('pagehide', leaving);
  return () => {
    activity.keep();
    EVENTS.forEach(name => document.removeEventListener(name, seen, { capture: true }));
    window.removeEventListener('pagehide', leaving);
  };
}
