/* The graph in a PNG: the text chunks `workflow` (with positions) and `prompt` (to be run). */
export async function graph_of(data) {
  const bytes = new Uint8Array(data), view = new DataView(data), texts = {};
  for (let at = 8; at + 12 <= bytes.length;) {
    const length = view.getUint32(at), kind = latin(bytes.subarray(at + 4, at + 8));
    const body = bytes.subarray(at + 8, at + 8 + length), end = body.indexOf(0);
    const name = latin(body.subarray(0, Math.max(end, 0)));
    if (kind === "tEXt") texts[name] = latin(body.subarray(end + 1));
    if (kind === "zTXt") texts[name] = latin(await inflated(body.subarray(end + 2)));
    if (kind === "iTXt") texts[name] = await international(body.subarray(end + 1));
    if (kind === "IEND") break;
    at += length + 12;
  }
  return texts.workflow || texts.prompt || null;
}
function latin(bytes) {
  return new TextDecoder("latin1").decode(bytes);
}
async function international(rest) { // packed flag, method, language \0, translated name \0, text
  const from = rest.indexOf(0, rest.indexOf(0, 2) + 1) + 1;
  const text = rest[0] ? await inflated(rest.subarray(from)) : rest.subarray(from);
  return new TextDecoder().decode(text);
}
async function inflated(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}
