// [number of texts, those whose contrast with what lies behind them is below 4.5 to 1 (WCAG 2, AA)]
() => {
  const parse = (text) => {
    const n = (text.match(/[\d.]+%?/g) || []).map((v) => v.endsWith("%") ? parseFloat(v) / 100 : parseFloat(v));
    if (text.startsWith("color(srgb")) return [255 * n[0], 255 * n[1], 255 * n[2], n[3] ?? 1];
    return [n[0] ?? 0, n[1] ?? 0, n[2] ?? 0, n[3] ?? 1];
  };
  const over = (a, b) => [0, 1, 2].map((i) => a[i] * a[3] + b[i] * (1 - a[3])).concat(1);
  const light = (c) => {
    const [r, g, b] = c.slice(0, 3).map((v) => v / 255).map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ratio = (a, b) => { const [x, y] = [light(a), light(b)].sort((p, q) => q - p); return (x + 0.05) / (y + 0.05); };
  const behind = (part) => {
    const layers = [];
    for (let at = part; at; at = at.parentElement) {
      const style = getComputedStyle(at);
      const own = parse(style.backgroundColor);
      const stops = style.backgroundImage.includes("gradient") ? style.backgroundImage.match(/rgba?\([^)]*\)/g) || [] : [];
      layers.push([own, ...stops.map(parse)]);
      if (own[3] === 1) break;
    }
    let found = [[255, 255, 255, 1]];
    for (const options of layers.reverse()) {
      const [own, ...stops] = options;
      found = found.map((b) => over(own, b));
      if (stops.length) found = found.flatMap((b) => stops.map((s) => over(s, b)));
    }
    return found;
  };
  const bad = [];
  let count = 0;
  const check = (part, text, colour) => {
    const box = part.getBoundingClientRect(), style = getComputedStyle(part);
    if (!text.trim() || !box.width || !box.height || style.visibility !== "visible") return;
    let opacity = 1;
    for (let at = part; at; at = at.parentElement) opacity *= parseFloat(getComputedStyle(at).opacity);
    if (opacity === 0) return;
    count++;
    const ink = parse(colour ?? style.color);
    ink[3] *= opacity;
    const worst = Math.min(...behind(part).map((b) => ratio(over(ink, b), b)));
    if (worst < 4.5) bad.push(`${worst.toFixed(2)} ${part.tagName}.${part.className} ${JSON.stringify(text.trim().slice(0, 40))} ${style.color}`);
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) check(walker.currentNode.parentElement, walker.currentNode.data);
  for (const part of document.querySelectorAll("input:not([type=checkbox], [type=radio], [type=range], [type=file]), textarea")) {
    check(part, part.value);
    if (!part.value && part.placeholder) check(part, part.placeholder, getComputedStyle(part, "::placeholder").color);
  }
  return [count, bad];
}
