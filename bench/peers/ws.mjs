// The bare `ws` package: answers requests, and sends what is published to all who joined. Prints "listening PORT".
import { WebSocketServer } from "ws";

const members = new Set();
const server = new WebSocketServer({ host: "127.0.0.1", port: 0, perMessageDeflate: false });
server.on("listening", () => console.log(`listening ${server.address().port}`));
server.on("connection", (socket) => {
  socket.on("close", () => members.delete(socket));
  socket.on("message", (text) => {
    const request = JSON.parse(text);
    if (request.op === "join") members.add(socket);
    if (request.op === "publish") {
      const event = JSON.stringify({ event: "message", data: request.data });
      for (const member of members) member.send(event);
    }
    socket.send(JSON.stringify({ re: request.id, ok: request.data }));
  });
});
