// A server of npm's ws: see _servers.py for its paths, and for how it starts and ends.

'use strict';

const http = require('http');
const { WebSocketServer } = require('ws');
const { version } = require('ws/package.json');

function serve(socket, path) {
  const [, action, code, reason] = path.split('/');
  switch (action) {
    case 'echo':
      socket.on('message', (data, binary) => socket.send(data, { binary }));
      break;
    case 'close':
      socket.close(Number(code), decodeURIComponent(reason));
      break;
    case 'told':
      socket.on('close', (given, why) => console.log(JSON.stringify([given, why.toString()])));
      break;
    default:
      throw new Error(path);
  }
  // What the client breaks off is for the tests to judge.
  socket.on('error', () => {});
}

const server = http.createServer();
const upgrader = new WebSocketServer({
  noServer: true,
  perMessageDeflate: true,
  handleProtocols: (offered) => (offered.has('second') ? 'second' : false)
});
server.on('upgrade', (request, connection, head) => {
  const path = new URL(request.url, 'ws://localhost').pathname;
  if (path.startsWith('/refuse/')) {
    const status = Number(path.slice('/refuse/'.length));
    connection.end(
      `HTTP/1.1 ${status} ${http.STATUS_CODES[status]}\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno`
    );
  } else {
    upgrader.handleUpgrade(request, connection, head, (socket) => serve(socket, path));
  }
});
server.listen(0, '127.0.0.1', () => console.log(JSON.stringify([server.address().port, `ws ${version}`])));

process.stdin.resume();
process.stdin.on('end', () => process.exit(0));
