// What a careful reader would object to: text over text, text cut off, a page wider than the screen, faint text.
(() => {
  const problems = [];
  const root = document.documentElement;
  if (root.scrollWidth > innerWidth + 1) problems.push(`the page is ${root.scrollWidth} wide on a screen of ${innerWidth}`);

  const seen = (e) => e.checkVisibility() && getComputedStyle(e).visibility !== "hidden";
  const texts = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const node = walk.currentNode, owner = node.parentElement;
    if (!node.data.trim() || owner.closest("title,style") || !seen(owner)) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    for (const box of range.getClientRects()) if (box.width > 1) texts.push({ box, owner, text: node.data.trim() });
  }

  // Marks on a time line may touch; anything else may not.
  const isMark = (owner) => owner.closest(".track i, text.mark");
  const drawn = texts.filter((t) => !isMark(t.owner));
  drawn.sort((a, b) => a.box.top - b.box.top);
  for (let i = 0; i < drawn.length; i++) {
    const a = drawn[i];
    for (let j = i + 1; j < drawn.length && drawn[j].box.top < a.box.bottom; j++) {
      const b = drawn[j];
      const wide = Math.min(a.box.right, b.box.right) - Math.max(a.box.left, b.box.left);
      const high = Math.min(a.box.bottom, b.box.bottom) - Math.max(a.box.top, b.box.top);
      const least = Math.min(a.box.height, b.box.height);
      if (a.owner !== b.owner && wide > 2 && high > 0.4 * least) problems.push(`"${a.text.slice(0, 40)}" and "${b.text.slice(0, 40)}" overlap`);
    }
  }
  for (const { box, owner, text } of texts)
    if ((box.left < -1 || box.right > innerWidth + 1) && !owner.closest(".scroll")) problems.push(`"${text.slice(0, 40)}" leaves the screen`);

  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return canvas.getImageData(0, 0, 1, 1).data;
  };
  const luminance = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map((v) => ((v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const behind = (e) => {
    for (; e; e = e.parentElement) {
      const colour = rgba(getComputedStyle(e).backgroundColor);
      if (colour[3] === 255) return colour;
    }
    return [255, 255, 255, 255];
  };
  let lowest = 21;
  for (const { owner, text } of texts) {
    const style = getComputedStyle(owner);
    const front = luminance(rgba(owner.closest("svg") ? style.fill : style.color)), back = luminance(behind(owner));
    const ratio = (Math.max(front, back) + 0.05) / (Math.min(front, back) + 0.05);
    lowest = Math.min(lowest, ratio);
    if (ratio < 4.5) problems.push(`"${text.slice(0, 40)}" has a contrast of ${ratio.toFixed(2)}`);
    if (parseFloat(style.fontSize) * (owner.closest("svg") ? owner.closest("svg").getScreenCTM().a : 1) < 10)
      problems.push(`"${text.slice(0, 40)}" is too small`);
  }
  return { problems: [...new Set(problems)], texts: texts.length, lowest };
})()
