// Renders /openapi.json. What it says goes into the page as text and never as markup.
'use strict';

const el = (name, attributes, ...children) => {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) node.setAttribute(key, value);
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
};

// `code` within text, and lines that begin with "- " as a list.
const inline = (text) =>
  text.split(/(`[^`]*`)/).map((part) => (part.startsWith('`') ? el('code', {}, part.slice(1, -1)) : part));
const prose = (text) => {
  if (!text) return [];
  const lines = text.split('\n');
  return lines.every((line) => line.startsWith('- '))
    ? [el('ul', {}, lines.map((line) => el('li', {}, inline(line.slice(2)))))]
    : [el('p', {}, inline(text))];
};

const nameOf = (ref) => ref.slice(ref.lastIndexOf('/') + 1);
const VALUES_SHOWN = 12;

// A schema in a line.
const brief = (schema) => {
  if (schema.$ref) return [el('a', { href: `#schema-${nameOf(schema.$ref)}` }, nameOf(schema.$ref))];
  if (schema.not) return ['never'];
  if (schema.allOf) return schema.allOf.filter((part) => part.$ref).flatMap(brief);
  if (schema.type === 'array') return ['array of ', ...brief(schema.items || {}), ...limits(schema)];
  if (schema.enum) return values(schema.enum);
  if ('const' in schema) return [el('code', {}, JSON.stringify(schema.const))];
  const type = [schema.type || 'any'].flat().join(' or ');
  return [schema.format ? `${type}, ${schema.format}` : type, ...limits(schema)];
};
const values = (all) => {
  const listed = (some) => some.flatMap((value, at) => [at ? ' ' : '', el('code', {}, String(value))]);
  if (all.length <= VALUES_SHOWN) return listed(all);
  return [el('details', { class: 'more' }, el('summary', {}, `one of ${all.length} values`), listed(all))];
};
const limits = (schema) => {
  const range = (least, most, unit) => {
    if (least === undefined && most === undefined) return [];
    if (most === undefined) return [`, at least ${least}${unit}`];
    return [least === undefined ? `, at most ${most}${unit}` : `, ${least} to ${most}${unit}`];
  };
  return [
    ...range(schema.minimum, schema.maximum, ''),
    ...range(schema.minLength, schema.maxLength, ' characters'),
    ...range(schema.minItems, schema.maxItems, ' items'),
    ...(schema.default === undefined ? [] : [`, ${schema.default} by default`]),
    ...(schema.pattern ? [' ', el('code', { class: 'pattern' }, schema.pattern)] : []),
  ];
};

const table = (heads, rows) =>
  el('div', { class: 'scroll' }, el('table', {},
    el('thead', {}, el('tr', {}, heads.map((head) => el('th', {}, head)))),
    el('tbody', {}, rows.map((cells) => el('tr', {}, cells.map((cell) => el('td', {}, cell)))))));

const properties = (schema) =>
  table(['field', 'is', ''], Object.entries(schema.properties || {}).map(([name, field]) => [
    [el('code', {}, name), (schema.required || []).includes(name) ? el('b', { class: 'needed' }, ' required') : null],
    brief(field),
    inline(field.description || ''),
  ]));

const operation = (doc, path, method, op) => {
  const resolve = (it) => (it.$ref ? it.$ref.slice(2).split('/').reduce((at, key) => at[key], doc) : it);
  const parameters = op.parameters.map(resolve);
  const scopes = (op.security || []).flatMap((one) => Object.values(one).flat());
  const parts = [...prose(op.description)];
  if (scopes.length) parts.push(el('p', {}, 'Takes an API key with the scope ', el('code', {}, scopes.join(' ')), '.'));
  if (parameters.length) {
    parts.push(el('h4', {}, 'Parameters'), table(['name', 'in', 'is', ''], parameters.map((it) => [
      [el('code', {}, it.name), it.required ? el('b', { class: 'needed' }, ' required') : null],
      it.in, brief(it.schema), inline(it.description || '')])));
  }
  if (op.requestBody) {
    const schema = op.requestBody.content['application/json'].schema;
    const example = (resolve(schema).examples || [])[0];
    parts.push(el('h4', {}, 'Body', op.requestBody.required ? el('b', { class: 'needed' }, ' required') : ''),
      el('p', {}, brief(schema), '. ', inline(op.requestBody.description)),
      example ? el('pre', {}, JSON.stringify(example, null, 2)) : '');
  }
  parts.push(el('h4', {}, 'Answers'), table(['status', 'means', 'body', 'headers'],
    Object.entries(op.responses).map(([status, answer]) => [
      el('span', { class: `status s${status[0]}` }, status),
      prose(answer.description),
      Object.entries(answer.content).flatMap(([type, it], at) =>
        [at ? el('br') : '', brief(it.schema), el('span', { class: 'muted' }, ` ${type}`)]),
      Object.keys(answer.headers).flatMap((name, at) => [at ? ' ' : '', el('code', {}, name)])])));
  return el('details', { class: 'card operation', id: op.operationId },
    el('summary', {}, el('span', { class: `method ${method}` }, method.toUpperCase()), ' ',
      el('code', { class: 'path' }, path), el('span', { class: 'muted' }, op.summary)),
    parts);
};

const render = (doc) => {
  const out = [el('h1', {}, doc.info.title, el('small', {}, ` ${doc.info.version}`)), ...prose(doc.info.description)];
  for (const tag of doc.tags) {
    out.push(el('h2', {}, tag.description));
    for (const [path, methods] of Object.entries(doc.paths)) {
      for (const [method, op] of Object.entries(methods)) {
        if (op.tags.includes(tag.name)) out.push(operation(doc, path, method, op));
      }
    }
  }
  out.push(el('h2', {}, 'Problem codes'),
    table(['code', 'status', 'means'], doc['x-problem-codes'].map((it) => [el('code', {}, it.code),
      el('span', { class: `status s${String(it.status)[0]}` }, String(it.status)), it.title])));
  out.push(el('h2', {}, 'Schemas'));
  for (const [name, schema] of Object.entries(doc.components.schemas)) {
    out.push(el('section', { class: 'card', id: `schema-${name}` },
      el('h3', {}, name), ...prose(schema.description), properties(schema)));
  }
  document.getElementById('docs').replaceChildren(...out);
  openLinked();
};

const openLinked = () => {
  const linked = location.hash && document.getElementById(location.hash.slice(1));
  if (linked) {
    linked.open = true;
    linked.scrollIntoView();
  }
};
window.addEventListener('hashchange', openLinked);

fetch('/openapi.json')
  .then((answer) => (answer.ok ? answer.json() : Promise.reject(new Error(`status ${answer.status}`))))
  .then(render)
  .catch((error) => {
    document.getElementById('docs').textContent = `The document can't be read: ${error.message}`;
  });
