import importX from 'eslint-plugin-import-x';
import tseslint from 'typescript-eslint';

/** docs/architecture.md: imports point one way. A folder may import itself, what stands here, and src/*.ts. */
const LAYERS = {
  image: [],
  // The network's part of a VM's configuration is the VM's to define.
  network: ['vm'],
  vm: [],
  engine: ['image', 'network', 'vm'],
  cli: ['bench', 'engine', 'image', 'network', 'vm'],
  oci: ['engine', 'image', 'network', 'vm'],
  api: ['engine', 'image', 'network', 'vm'],
  bench: ['engine', 'image', 'network', 'vm'],
};

const zones = Object.entries(LAYERS).map(([folder, below]) => ({
  target: `./src/${folder}`,
  from: Object.keys(LAYERS)
    .filter((other) => other !== folder && !below.includes(other))
    .map((other) => `./src/${other}`),
  message: `src/${folder} may import ${['itself', ...below].join(', ')} and src/*.ts: see docs/architecture.md.`,
}));

export default tseslint.config(
  {
    ignores: [
      'dist/',
      'build/',
      'node_modules/',
      'src/generated/',
      'test/native/out/',
      'coverage/',
    ],
  },
  ...tseslint.configs.strict,
  {
    plugins: { 'import-x': importX },
    settings: {
      'import-x/resolver-next': [
        importX.createNodeResolver({ extensionAlias: { '.js': ['.ts', '.js'] } }),
      ],
    },
    rules: {
      eqeqeq: 'error',
      'no-console': 'off',
      'prefer-const': 'error',
      'import-x/no-restricted-paths': ['error', { zones }],
      'import-x/no-cycle': ['error', { ignoreExternal: true }],
      '@typescript-eslint/no-unused-vars': [
        'error',
        { argsIgnorePattern: '^_', varsIgnorePattern: '^_', destructuredArrayIgnorePattern: '^_' },
      ],
    },
  },
  {
    files: ['src/**/*.ts', 'test/**/*.ts'],
    languageOptions: {
      parserOptions: { project: './tsconfig.test.json', tsconfigRootDir: import.meta.dirname },
    },
    rules: {
      '@typescript-eslint/await-thenable': 'error',
      '@typescript-eslint/consistent-type-imports': ['error', { disallowTypeAnnotations: false }],
      '@typescript-eslint/no-floating-promises': 'error',
      '@typescript-eslint/no-misused-promises': ['error', { checksVoidReturn: false }],
      '@typescript-eslint/only-throw-error': ['error', { allowThrowingUnknown: true }],
      '@typescript-eslint/switch-exhaustiveness-check': [
        'error',
        { considerDefaultExhaustiveForUnions: true },
      ],
    },
  },
  {
    files: ['test/**/*.ts'],
    // A test that meets an undefined there fails, as it should.
    rules: { '@typescript-eslint/no-non-null-assertion': 'off' },
  },
);
