// A WebSocket server of npm's ws, for the tests. It prints its port, and ends with its standard input.
//
// Paths: /echo echoes; /fragments echoes in five fragments with a ping before each; /send/COUNT/SIZE sends COUNT
// messages of SIZE zeros; how the client closes is printed as a line of JSON.
//
// ?deflate accepts permessage-deflate, with the parameters that follow: ?deflate&server_max_window_bits=10.

'use strict';

const http = require('http');

let WebSocketServer;
try {
  // By require: import does not look into NODE_PATH.
  ({ WebSocketServer } = require('ws'));
} catch (error) {
  if (error.code !== 'MODULE_NOT_FOUND') throw error;
  console.log('no ws');
  process.exit(0);
}

const FRAGMENTS = 5;

function deflateOptions(query) {
  if (!query.has('deflate')) return false;
  const options = { threshold: 0 };
  for (const [name, option] of [
    ['server_max_window_bits', 'serverMaxWindowBits'],
    ['client_max_window_bits', 'clientMaxWindowBits']
  ]) {
    if (query.has(name)) options[option] = Number(query.get(name));
  }
  if (query.has('server_no_context_takeover')) options.serverNoContextTakeover = true;
  if (query.has('client_no_context_takeover')) options.clientNoContextTakeover = true;
  return options;
}

function sendFragments(socket, data, binary) {
  // Of text, whole characters, although the protocol would allow to cut inside.
  const whole = binary ? data : [...data.toString()];
  const size = Math.ceil(whole.length / FRAGMENTS);
  for (let start = 0; start < whole.length; start += size) {
    const piece = whole.slice(start, start + size);
    socket.ping();
    socket.send(binary ? piece : piece.join(''), { binary, fin: start + size >= whole.length });
  }
}

function serve(socket, path) {
  const [, action, count, size] = path.split('/');
  switch (action) {
    case 'echo':
      socket.on('message', (data, binary) => socket.send(data, { binary }));
      break;
    case 'fragments':
      socket.on('message', (data, binary) => sendFragments(socket, data, binary));
      break;
    case 'send':
      for (let number = 0; number < Number(count); number++) socket.send(Buffer.alloc(Number(size)));
      socket.on('close', (code, reason) => console.log(JSON.stringify([code, reason.toString()])));
      break;
    default:
      throw new Error(path);
  }
  // What the client breaks off is for the tests to judge.
  socket.on('error', () => {});
}

const server = http.createServer();
server.on('upgrade', (request, connection, head) => {
  const url = new URL(request.url, 'ws://localhost');
  const upgrader = new WebSocketServer({ noServer: true, perMessageDeflate: deflateOptions(url.searchParams) });
  upgrader.handleUpgrade(request, connection, head, (socket) => serve(socket, url.pathname));
});
server.listen(0, '127.0.0.1', () => console.log(server.address().port));

process.stdin.resume();
process.stdin.on('end', () => process.exit(0));
