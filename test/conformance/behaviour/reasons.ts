// Reasons of docs/limitations.md that several rows have.
export const NOT_PID_1 = 'Its first process is not PID 1';
