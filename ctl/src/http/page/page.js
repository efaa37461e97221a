
'use strict';
(() => {
  const PERIOD = 2000, POINTS = 60;
  const main = document.querySelector('main'), stale = document.getElementById('stale');
  // Of each counter: its last value, and its last rates.
  const counters = new Map();
  let uptime = 0, answered = Date.now();

  const format = (key, rate) => {
    if (key.startsWith('cpu ')) return (100 * rate).toFixed(rate < 0.0995 ? 1 : 0) + ' %';
    return (rate && rate < 99.5 ? rate.toFixed(1) : Math.round(rate).toLocaleString('en')) + '/s';
  };

  // Compares the counters with those of the last time. The clock is that of skd.
  const count = root => {
    const now = +root.querySelector('header').dataset.uptime, time = now - uptime;
    if (time < 0) counters.clear();
    uptime = now;
    for (const element of root.querySelectorAll('[data-rate]')) {
      const key = element.dataset.rate, total = +element.dataset.total;
      const counter = counters.get(key) || { rates: [] };
      if ('total' in counter && time > 0) {
        counter.rates.push(Math.max(0, total - counter.total) / time);
        if (counter.rates.length > POINTS) counter.rates.shift();
      }
      counter.total = total;
      counters.set(key, counter);
      if (counter.rates.length) element.textContent = format(key, counter.rates.at(-1));
    }
  };

  // Draws the rates, both of a plot on one scale.
  const draw = root => {
    for (const plot of root.querySelectorAll('.plot')) {
      const paths = [...plot.children];
      const rates = paths.map(path => counters.get(path.dataset.plot)?.rates || []);
      const most = Math.max(...rates.flat(), 1e-9);
      paths.forEach((path, i) => {
        const start = POINTS - rates[i].length;
        const points = rates[i].map((rate, x) => `${start + x} ${(19 - 18 * rate / most).toFixed(2)}`);
        path.setAttribute('d', points.length > 1 ? 'M' + points.join('L') : '');
      });
    }
  };

  const refresh = async () => {
    try {
      const answer = await fetch('live', { cache: 'no-store', signal: AbortSignal.timeout(8000) });
      const text = await answer.text();
      if (!answer.ok) throw new Error(text);
      const next = new DOMParser().parseFromString(text, 'text/html').body;
      count(next);
      draw(next);
      main.replaceChildren(...next.children);
      answered = Date.now();
      stale.hidden = true;
    } catch (error) {
      const age = Math.round((Date.now() - answered) / 1000);
      stale.textContent = `These figures are ${age} seconds old: ${error.message}`;
      stale.hidden = false;
    }
  };

  // A hidden page asks for nothing.
  const repeat = async () => {
    if (!document.hidden) await refresh();
    setTimeout(repeat, PERIOD);
  };
  count(main);
  setTimeout(repeat, PERIOD);
})();
