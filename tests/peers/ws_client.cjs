// A client of npm's ws: see _clients.py for what it is told to do, and how it starts and ends.

'use strict';

const fs = require('fs');
const readline = require('readline');
const WebSocket = require('ws');
const { version } = require('ws/package.json');

const report = (...what) => console.log(JSON.stringify(what));

const act = {
  echo() {},
  fragments(socket, fragments) {
    fragments.forEach((text, index) => socket.send(text, { fin: index === fragments.length - 1 }));
  },
  ping(socket, payload) {
    socket.on('pong', (data) => {
      if (data.toString() !== payload) throw new Error(data.toString());
      report('pong');
    });
    socket.ping(payload);
  },
  send(socket, size) {
    socket.send('x'.repeat(size));
  },
  count(socket, number) {
    for (let index = 0; index < number; index++) socket.send(String(index));
  },
  close(socket, [code, reason]) {
    socket.close(code, reason);
  },
  deaf(socket) {
    socket.pause();
  }
};

function connect(task, opened) {
  const socket = new WebSocket(task.url, task.protocols || [], {
    perMessageDeflate: 'compress' in task && { threshold: 0 },
    ca: task.authority && fs.readFileSync(task.authority),
    cert: task.certificate && fs.readFileSync(task.certificate),
    key: task.certificate && fs.readFileSync(task.certificate),
    maxPayload: 1 << 26
  });
  socket.on('message', (data, binary) => socket.send(data, { binary, compress: true }));
  socket.on('unexpected-response', (request, response) => {
    let body = '';
    response.on('data', (data) => (body += data));
    response.on('end', () => report('refused', response.statusCode, response.headers['x-why'], body));
  });
  socket.on('open', () => opened(socket));
  socket.on('close', (code, reason) => report('closed', code, reason.toString()));
  // How a connection breaks is for the tests to judge.
  socket.on('error', () => {});
}

function perform(task) {
  const sockets = [];
  const count = task.connections || 1;
  for (let index = 0; index < count; index++) {
    connect(task, (socket) => {
      sockets.push(socket);
      if (sockets.length === count) {
        report('open', sockets[0].protocol || null);
        sockets.forEach((each) => act[task.action](each, task.argument));
      }
    });
  }
}

report(null, `ws ${version}`);
const lines = readline.createInterface({ input: process.stdin });
lines.on('line', (line) => perform(JSON.parse(line)));
lines.on('close', () => process.exit(0));
