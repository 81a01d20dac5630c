/* Why a case is the next one: kept by the page that opens the case, shown by the viewer. */

const NEXT = 'medsam2_atlas.next';

/** Keeps why a case is the next one until the viewer shows it. */
export function keepReason({ study, why }) {
  try {
    window.sessionStorage.setItem(NEXT, JSON.stringify({ study, why }));
  } catch {
    // The browser keeps nothing: the case opens without its reason.
  }
}

/** Returns why a case was opened as the next one; an empty text if it was opened in another way. */
export function reasonOf(image) {
  try {
    const { study, why } = JSON.parse(window.sessionStorage.getItem(NEXT)) || {};
    return study === image && typeof why === 'string' ? why : '';
  } catch {
    return '';
  }
}
