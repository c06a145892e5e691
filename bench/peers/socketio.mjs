// Socket.IO over WebSocket: answers requests, and emits what is published to a room. Prints "listening PORT".
import { createServer } from "node:http";
import { Server } from "socket.io";

const http = createServer();
const io = new Server(http, { transports: ["websocket"], perMessageDeflate: false });
io.on("connection", (socket) => {
  socket.on("join", () => {
    socket.join("bench");
    socket.emit("re", {});
  });
  socket.on("echo", (data) => socket.emit("re", data));
  socket.on("publish", (data) => {
    io.to("bench").emit("event", data);
    socket.emit("re", {});
  });
});
http.listen(0, "127.0.0.1", () => console.log(`listening ${http.address().port}`));
