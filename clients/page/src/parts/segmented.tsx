/** One of a few, as buttons side by side; the browser's own radio buttons underneath. */
interface Props<T extends string> {
  name: string;
  label: string;
  options: readonly (readonly [T, string])[];
  value: T;
  onChange(value: T): void;
  disabled?(value: T): boolean;
}

export function Segmented<T extends string>({ name, label, options, value, onChange, disabled }: Props<T>) {
  return (
    <fieldset class="segmented">
      <legend>{label}</legend>
      {options.map(([option, text]) => (
        <label key={option}>
          <input type="radio" name={name} value={option} checked={value === option} disabled={disabled?.(option)} onChange={() => onChange(option)} />
          <span>{text}</span>
        </label>
      ))}
    </fieldset>
  );
}
