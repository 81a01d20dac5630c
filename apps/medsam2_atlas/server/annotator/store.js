/* The state that the panel shows. */

/** Returns a store: `get` returns the state, `set` merges a change into it and calls the subscribers. */
export function storeOf(initial) {
  let state = initial;
  let waiting = false;
  const subscribers = new Set();
  return {
    get: () => state,
    set(change) {
      state = { ...state, ...change };
      if (!waiting) {
        waiting = true;
        setTimeout(() => {
          waiting = false;
          subscribers.forEach(subscriber => subscriber(state));
        }, 0);
      }
    },
    subscribe(subscriber) {
      subscribers.add(subscriber);
      return () => subscribers.delete(subscriber);
    },
  };
}
