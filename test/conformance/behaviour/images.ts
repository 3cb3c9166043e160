import type { Topic } from './table.js';

/** The store of images. */
export const images: Topic = {
  name: 'images',
  setup: 't tag busybox other:1; t create --name user other:1 true',
  rows: [
    {
      line: 't images busybox',
      differs: {
        why: 'The size of an image',
        stdout: /\nbusybox latest <id> <age> ago 2\.\d+MB\n$/,
      },
    },
    {
      line: 't images --format "{{.ID}} {{.Size}} {{.CreatedSince}}" busybox',
      differs: { why: 'The size of an image', stdout: /^<id> 2\.\d+MB <age> ago\n$/ },
    },
    { line: 't images --filter reference="oth*" --format "{{.Repository}}"' },
    { line: 't tag busybox mine:1', effect: 't images -q mine' },
    { line: 't tag busybox BAD', says: /repository name must be lower ?case/ },
    { line: 't rmi mine:1', effect: 't images -q mine' },
    {
      line: 't image inspect -f "{{json .RepoTags}} {{json .Config.Cmd}} {{.RootFS.Type}} {{len .RootFS.Layers}}" other:1',
    },
    { line: 't image inspect nosuch', says: /No such image: nosuch/ },
    {
      line: 'tar c f | t import - imp:1',
      before: 'echo x > f',
      effect: 't run --rm imp:1 /f 2> /dev/null; echo $?',
      mask: [],
    },
    { line: 't pull BAD', says: /repository name must be lower ?case/ },
  ],
};
