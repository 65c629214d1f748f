// The order page. Everything that comes from the server goes into the page as text, never as markup.
'use strict';

const $ = (id) => document.getElementById(id);
const el = (name, className, ...children) => {
  const node = document.createElement(name);
  if (className) node.className = className;
  node.append(...children);
  return node;
};

const KEY_STORED = 'api-key';
const POLL_MS = 400;
const POLL_SLOW_MS = 3000;
const POLL_QUICK_TIMES = 150; // a minute; then slower
const PAGE_SIZE = 20;

let sent = null; // the last placed request: its key and its body, to be sent again as they were
let shown = null; // the order that is watched
let seen = []; // the stages that the watched order was seen in
let polled = 0;
let timer = null;
let nextCursor = null;
let isLost = false; // the last poll had no answer

// --- Requests

const ask = async (method, path, { key, body } = {}) => {
  const headers = {};
  const apiKey = sessionStorage.getItem(KEY_STORED);
  if (apiKey) headers.authorization = `Bearer ${apiKey}`;
  if (key) headers['idempotency-key'] = key;
  if (body !== undefined) headers['content-type'] = 'application/json';
  const answer = await fetch(path, { method, headers, body });
  const json = await answer.json();
  if (answer.status === 401) askForKey();
  if (!answer.ok) throw Object.assign(new Error(json.detail), { problem: json });
  return { json, status: answer.status, replayed: answer.headers.get('idempotency-replayed') === 'true' };
};

// randomUUID exists only where the page is secure; a plain address in a network is not.
const newKey = () =>
  crypto.randomUUID
    ? crypto.randomUUID()
    : Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, '0')).join('');

const askForKey = () => {
  $('access').hidden = false;
  $('api-key').focus();
};

const notice = (kind, text, errors = []) => {
  const lines = errors.map((error) => el('li', '', el('code', '', error.pointer || '/'), ` ${error.detail}`));
  $('notice').className = `notice ${kind}`;
  $('notice').replaceChildren(el('p', '', text), ...(lines.length ? [el('ul', '', ...lines)] : []));
  $('notice').hidden = false;
};

const fail = (error) => {
  const problem = error.problem;
  if (problem) notice('bad', `${problem.title}: ${problem.detail}`, problem.errors);
  else notice('bad', `No answer (${error.message}). Sending again with the same key is safe.`);
};

// --- The form

const money = (cents, currency) => {
  const whole = Number.isFinite(cents) ? cents / 100 : 0;
  return `${whole.toLocaleString('en', { minimumFractionDigits: 2, maximumFractionDigits: 2 })} ${currency}`;
};

const input = (className, label, value, type) => {
  const field = el('input', className);
  field.setAttribute('aria-label', label);
  field.value = value;
  field.type = type;
  if (type === 'number') field.min = className === 'quantity' ? 1 : 0;
  return field;
};

const addItem = (sku, quantity, cents) => {
  const remove = el('button', 'quiet remove', '×');
  remove.type = 'button';
  remove.setAttribute('aria-label', 'Remove this item');
  const row = el('div', 'item', input('sku', 'Sku', sku, 'text'), input('quantity', 'Quantity', quantity, 'number'),
    input('cents', 'Cents each', cents, 'number'), remove);
  remove.addEventListener('click', () => {
    row.remove();
    changed();
  });
  $('items').append(row);
};

// A number where the field has one; else the text as it is, for the server to say what is wrong with it.
const number = (field) => (/^-?\d+$/.test(field.value) ? Number(field.value) : field.value);

const wanted = () => ({
  customer_id: $('customer').value,
  currency: $('currency').value,
  items: [...$('items').children].map((row) => ({
    sku: row.querySelector('.sku').value,
    quantity: number(row.querySelector('.quantity')),
    unit_price_cents: number(row.querySelector('.cents')),
  })),
});

// What has changed is another request: it gets another key.
const changed = () => {
  const order = wanted();
  const total = order.items.reduce((sum, item) => sum + item.quantity * item.unit_price_cents, 0);
  $('total').textContent = money(total, order.currency);
  $('key').textContent = newKey();
};

const place = async (request, isAgain) => {
  $('place').disabled = $('again').disabled = true;
  try {
    const { json, replayed } = await ask('POST', '/v1/orders', request);
    const what = replayed
      ? `The same order came back, ${json.order_id}: nothing was placed twice.`
      : 'Accepted. It takes effect in a moment.';
    notice('good', `${what} The key was ${request.key}.`);
    // The next press is for another order. Until there is an answer it is for the same one.
    if (!isAgain) changed();
    watch(json, replayed);
    await list();
  } catch (error) {
    fail(error);
  }
  $('place').disabled = false;
  $('again').disabled = !sent;
};

$('order-form').addEventListener('submit', (event) => {
  event.preventDefault();
  sent = { key: $('key').textContent, body: JSON.stringify(wanted()) };
  place(sent, false);
});
$('again').addEventListener('click', () => place(sent, true));
$('order-form').addEventListener('input', changed);
$('customer').addEventListener('change', () => list().catch(fail));
$('add-item').addEventListener('click', () => {
  addItem('', 1, 0);
  changed();
});

// --- The order that is watched

const STATES = {
  accepted: 'Accepted: safe in the database',
  placed: 'Placed: the consumer has applied it',
  paid: 'Paid',
  fulfilled: 'Fulfilled',
  cancelled: 'Cancelled',
  dead_lettered: 'Dead-lettered: it did not take effect',
};

// A replayed answer tells how the order was then; how it is now shows with the next poll.
const watch = (order, isOfThen = false) => {
  const isNew = !shown || shown.order_id !== order.order_id;
  if (isNew) seen = [];
  polled = 0;
  if (isNew || !isOfThen) show(order);
  poll();
};

const note = (stage) => {
  if (!seen.some((it) => it.stage === stage)) seen.push({ stage, at: new Date().toLocaleTimeString('en-GB') });
};

const show = (order) => {
  shown = order;
  const isPending = order.pending.length > 0;
  note(order.state);
  $('no-order').hidden = true;
  $('order-details').hidden = false;
  $('order-total').textContent = money(order.total_cents, order.currency);
  $('order-id').textContent = order.order_id;
  $('state').textContent = order.state.replace('_', ' ');
  $('state').className = `state ${order.state}`;
  const stages = seen.map(({ stage, at }) => {
    const line = el('li', stage === order.state ? 'now' : '', STATES[stage], el('time', '', at));
    line.dataset.stage = stage;
    return line;
  });
  if (isPending) {
    const waiting = order.pending.map((event) => event.event.replace('order.', '')).join(', ');
    stages.push(el('li', 'waiting', `Waiting to take effect: ${waiting}`));
  }
  $('stages').replaceChildren(...stages);
  $('dead-letters').replaceChildren(...order.dead_letters.map((dead) =>
    el('li', '', el('code', '', dead.event), ` was refused, `, el('code', '', dead.code), `: ${dead.reason}`)));
  const next = order.accepted_state || order.state;
  $('pay').disabled = next !== 'placed';
  $('cancel').disabled = !['placed', 'paid'].includes(next);
};

// While something is pending, and for what others do to it.
const poll = () => {
  clearTimeout(timer);
  const isQuick = shown.pending.length > 0 && polled < POLL_QUICK_TIMES;
  timer = setTimeout(async () => {
    const id = shown.order_id;
    polled += 1;
    if (!document.hidden) {
      try {
        const { json } = await ask('GET', `/v1/orders/${id}`);
        if (isLost) $('notice').hidden = true;
        isLost = false;
        if (shown.order_id === id) {
          const isNews = json.state !== shown.state;
          show(json);
          if (isNews) await list();
        }
      } catch (error) {
        fail(error);
        isLost = true;
        if (error.problem && error.problem.status < 500 && error.problem.status !== 429) return;
      }
    }
    poll();
  }, isQuick ? POLL_MS : POLL_SLOW_MS);
};

const change = (button, send, done) =>
  $(button).addEventListener('click', async () => {
    $(button).disabled = true;
    try {
      const { json, replayed } = await send(shown);
      notice('good', done);
      watch(json, replayed);
      await list();
    } catch (error) {
      fail(error);
      $(button).disabled = false;
    }
  });

// The key is the order's as it is seen: whoever presses twice, here or in another tab, pays once.
const payment = ({ order_id: id, version = 0 }) =>
  ask('POST', `/v1/orders/${id}/pay`, { key: `pay-${id}-${version}` });
change('pay', payment, 'The payment is accepted.');
change('cancel', ({ order_id: id }) => ask('DELETE', `/v1/orders/${id}`), 'The cancellation is accepted.');

// --- The customer's orders

const row = (order) => {
  const open = el('button', 'row', el('code', '', order.order_id),
    el('span', 'amount', money(order.total_cents, order.currency)),
    el('span', `state ${order.state}`, order.state.replace('_', ' ')));
  open.type = 'button';
  open.dataset.id = order.order_id;
  open.addEventListener('click', () => watch(order));
  return el('li', '', open);
};

const list = async (cursor) => {
  const customer = $('customer').value;
  $('listed-customer').textContent = customer;
  const query = new URLSearchParams({ customer_id: customer, limit: PAGE_SIZE });
  if (cursor) query.set('cursor', cursor);
  const { json } = await ask('GET', `/v1/orders?${query}`);
  if (customer !== $('customer').value) return; // it has changed meanwhile
  const rows = json.orders.map(row);
  if (cursor) $('orders').append(...rows);
  else $('orders').replaceChildren(...rows);
  nextCursor = json.next_cursor || null;
  $('more').hidden = !nextCursor;
  $('no-orders').hidden = $('orders').children.length > 0;
};

$('refresh').addEventListener('click', () => list().catch(fail));
$('more').addEventListener('click', () => list(nextCursor).catch(fail));

$('access').addEventListener('submit', (event) => {
  event.preventDefault();
  sessionStorage.setItem(KEY_STORED, $('api-key').value.trim());
  $('access').hidden = true;
  $('notice').hidden = true;
  list().catch(fail);
});

addItem('TEA-1', 2, 450);
changed();
list().catch(fail);
