export async function runOnVtx() {}
